//! `scaibunker bench`: what the installation does, as a client sees it.
//!
//! Every bench but `control`, `fleet` and `gateway`, which have what they measure themselves, makes its bunkers through one
//! [`Fleet`], which ends them whatever happens. All print the machine they ran on with their figures.

mod control;
mod density;
mod exec;
mod figure;
mod files;
mod fleet;
mod gateway;
mod images;
mod machine;
mod network;
mod report;
mod snapshots;
mod stats;
mod tti;
mod workers;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scaibunker_api::bunker::CreateBunker;

pub use self::machine::field;
use self::{
    control::ControlArgs, density::DensityArgs, exec::ExecBenchArgs, files::FilesBenchArgs,
    gateway::GatewayBenchArgs, images::ImagesBenchArgs, network::NetworkBenchArgs,
    snapshots::SnapshotsBenchArgs, tti::TtiArgs, workers::FleetBenchArgs,
};
use crate::{cli::GlobalArgs, exit::Failure, quantity, signals::Stop};

/// Measure the installation; ends with 1 when any attempt failed
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    Tti(TtiArgs),
    Exec(ExecBenchArgs),
    Files(FilesBenchArgs),
    Density(DensityArgs),
    Images(ImagesBenchArgs),
    Control(ControlArgs),
    Fleet(FleetBenchArgs),
    Network(NetworkBenchArgs),
    Snapshots(SnapshotsBenchArgs),
    Gateway(GatewayBenchArgs),
}

/// The bunkers to measure with.
#[derive(Debug, Args)]
struct BenchBunkerArgs {
    /// Image of the bunkers
    #[arg(long, default_value = "busybox")]
    image: String,
    /// Memory of each bunker in MiB, or such as 1g
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = quantity::size_mb)]
    memory: u32,
}

impl BenchBunkerArgs {
    fn request(&self) -> CreateBunker {
        CreateBunker {
            image: self.image.clone(),
            memory_mb: Some(self.memory),
            ..CreateBunker::default()
        }
    }
}

/// Gives the exit code.
pub async fn run(global: &GlobalArgs, args: BenchArgs) -> Result<u8, Failure> {
    let stop = Stop::listen().context("cannot listen for signals")?.announced(global.output());
    match args.bench {
        Bench::Tti(args) => tti::run(global, &args, stop).await,
        Bench::Exec(args) => exec::run(global, &args, stop).await,
        Bench::Files(args) => files::run(global, &args, stop).await,
        Bench::Images(args) => images::run(global, &args, stop).await,
        Bench::Density(args) => density::run(global, &args, stop).await,
        Bench::Network(args) => network::run(global, &args, stop).await,
        Bench::Fleet(args) => workers::run(global, &args, stop).await,
        Bench::Snapshots(args) => snapshots::run(global, &args, stop).await,
        Bench::Gateway(args) => gateway::run(global, &args, stop).await,
        Bench::Control(args) => control::run(global, &args, stop).await,
    }
}

/// Lets this process have as many open files as it may, for benches of very many connections; how many
/// that is.
fn allow_many_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, the bench tells what failed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A duration in milliseconds with two decimals: more would be noise.
fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

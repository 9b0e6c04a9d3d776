//! `scaibunker bench network`: what a network costs a create.

use std::time::{Duration, Instant};

use clap::Args;
use scaibunker_api::bunker::{CreateBunker, NetworkProfile};
use serde::Serialize;

use super::{
    BenchBunkerArgs,
    fleet::Fleet,
    milliseconds,
    report::{self, Header, shown},
    stats::Summary,
};
use crate::{cli::GlobalArgs, exit::Failure, signals::Stop, tables::table};

/// Time of a create without a network and with one, in turns
///
/// From sending `POST /bunkers?wait=true` until the bunker runs, isolated and `unrestricted` in turns,
/// over one kept-alive connection, with a rest after each for the warm pool to fill up. One of each kind
/// is made before, so that both are in the pool. Percentiles are nearest-rank.
#[derive(Debug, Args)]
pub struct NetworkBenchArgs {
    #[command(flatten)]
    bunker: BenchBunkerArgs,
    /// Bunkers of each kind
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// Rest after each bunker
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    pause_ms: u64,
}

const PROFILES: [NetworkProfile; 2] = [NetworkProfile::Isolated, NetworkProfile::Unrestricted];

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    count: u32,
    pause_ms: u64,
    isolated_create_ms: Option<Summary>,
    networked_create_ms: Option<Summary>,
    /// Of the medians.
    added_ms: Option<f64>,
}

/// Measures, ends all bunkers, prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &NetworkBenchArgs, stop: Stop) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let header = Header::of("network", &client, &args.bunker).await;
    let fleet = Fleet::new(client);
    let measured = measure(&fleet, args, &stop).await;
    fleet.end_all().await?;
    let [isolated, networked] = measured?;
    let added = isolated.zip(networked).map(|(without, with)| with.median - without.median);
    let report = Report {
        header,
        count: args.count,
        pause_ms: args.pause_ms,
        isolated_create_ms: isolated,
        networked_create_ms: networked,
        added_ms: added,
    };
    let about = format!(", {} of each kind; times in ms", args.count);
    let rows = [("isolated", isolated), ("unrestricted", networked)].map(|(name, create)| {
        [
            name.to_owned(),
            shown(create, |create| create.min),
            shown(create, |create| create.median),
            shown(create, |create| create.p99),
            shown(create, |create| create.max),
        ]
    });
    let header = ["CREATE", "MIN", "MEDIAN", "P99", "MAX"];
    report::print(output, &report, &report.header, &about, &table(header, rows))?;
    Ok(0)
}

async fn measure(
    fleet: &Fleet,
    args: &NetworkBenchArgs,
    stop: &Stop,
) -> Result<[Option<Summary>; 2], Failure> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=args.count {
        for (times, network_profile) in times.iter_mut().zip(PROFILES) {
            let request = CreateBunker { network_profile, ..args.bunker.request() };
            let begun = Instant::now();
            let made = fleet.create_running(&request, 1, stop).await?;
            let took = begun.elapsed();
            for id in made {
                fleet.end(id).await?;
            }
            // The first of each kind is not from the pool.
            if round > 0 {
                times.push(milliseconds(took));
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(args.pause_ms)) => {}
                signal = stop.requested() => return Err(Failure::Stopped(signal)),
            }
        }
    }
    Ok(times.map(Summary::of))
}

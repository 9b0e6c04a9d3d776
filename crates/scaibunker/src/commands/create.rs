//! `scaibunker create`, and the options of every command that makes a bunker.

use anyhow::Context as _;
use clap::{Args, builder::PossibleValuesParser};
use scaibunker_api::bunker::{CreateBunker, NetworkProfile};
use serde::{Deserialize as _, de::value::StrDeserializer};

use crate::{cli::GlobalArgs, exit::Failure, launch, quantity, signals::Stop};

/// What a new bunker is to be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bunker")]
pub struct BunkerArgs {
    /// Image to start from, see `scaibunker images`
    #[arg(long, default_value = "debian-12")]
    image: String,
    /// What the bunker may reach
    #[arg(long, default_value = "isolated", value_parser = network_parser())]
    network: String,
    /// Host that an `allowlisted` bunker may reach, such as pypi.org or *.example.com; repeatable
    #[arg(long = "allow", value_name = "HOST")]
    allowlist: Vec<String>,
    /// CPU cores, such as 2, 0.5 or 500m [default: the image's]
    #[arg(long, value_name = "CORES", value_parser = quantity::cpu_millicores)]
    cpu: Option<u32>,
    /// Memory in MiB, or such as 2g [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size_mb)]
    memory: Option<u32>,
    /// Writable disk in MiB, or such as 2g [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size_mb)]
    disk: Option<u32>,
    /// Environment variable of every command in the bunker; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = quantity::pair)]
    env: Vec<(String, String)>,
    /// Name to find the bunker by
    #[arg(long)]
    name: Option<String>,
    /// Label to find bunkers by; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = quantity::pair)]
    label: Vec<(String, String)>,
}

fn network_parser() -> PossibleValuesParser {
    ["isolated", "registry", "allowlisted", "unrestricted", "transit"].into()
}

impl BunkerArgs {
    /// The body of the create call.
    pub fn into_request(self) -> anyhow::Result<CreateBunker> {
        let profile: StrDeserializer<'_, serde::de::value::Error> =
            serde::de::IntoDeserializer::into_deserializer(self.network.as_str());
        Ok(CreateBunker {
            image: self.image,
            network_profile: NetworkProfile::deserialize(profile)
                .context("cannot read the network profile")?,
            network_allowlist: (!self.allowlist.is_empty()).then_some(self.allowlist),
            cpu_millicores: self.cpu,
            memory_mb: self.memory,
            disk_mb: self.disk,
            env_vars: self.env.into_iter().collect(),
            name: self.name,
            label_set: self.label.into_iter().collect(),
            ..CreateBunker::default()
        })
    }
}

/// Create a bunker, wait until it runs and print its id
///
/// Nothing removes it before its lifetime is over, but `scaibunker rm`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    bunker: BunkerArgs,
}

pub async fn run(global: &GlobalArgs, args: CreateArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?.announced(output);
    let bunker = launch::launch(&client, &args.bunker.into_request()?, output, &stop).await?;
    if output.is_json() { output.document(&bunker) } else { output.line(&bunker.id.to_string()) }
}

//! `scaibunker create`, and the options of every command that makes a bunker.

use anyhow::Context as _;
use clap::{Args, builder::PossibleValuesParser};
use scaibunker_api::{
    bunker::{CreateBunker, Interface, NetworkProfile, OnIdle},
    ids::SnapshotId,
};
use serde::{Deserialize as _, de::value::StrDeserializer};

use crate::{cli::GlobalArgs, exit::Failure, launch, quantity, signals::Stop};

/// What a new bunker is to be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bunker")]
pub struct BunkerArgs {
    /// Image to start from, see `scaibunker images`
    #[arg(long, default_value = "debian-12")]
    image: String,
    /// Snapshot to start from instead, see `scaibunker snapshots`
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "image")]
    snapshot: Option<SnapshotId>,
    /// What the bunker may reach
    #[arg(long, default_value = "isolated", value_parser = network_parser())]
    network: String,
    /// Host that an `allowlisted` bunker may reach, such as pypi.org or *.example.com; repeatable
    #[arg(long = "allow", value_name = "HOST")]
    allowlist: Vec<String>,
    /// Network device of a `transit` bunker, the bridge it is attached to, and its address if it matters,
    /// such as eth0=br-lan or eth1=br-dmz,02:00:00:00:00:01; repeatable
    #[arg(long = "interface", value_name = "NAME=BRIDGE[,MAC]", value_parser = interface)]
    interfaces: Vec<Interface>,
    /// Let the bunker's interfaces send what is not their own
    #[arg(long, requires = "interfaces")]
    no_spoof_guard: bool,
    /// What the bunker may send, in Mbit/s
    #[arg(long, value_name = "MBIT")]
    bandwidth: Option<u32>,
    /// Write down what the bunker reaches and tries to reach, see `scaibunker egress`
    #[arg(long)]
    egress_audit: bool,
    /// CPU cores, such as 2, 0.5 or 500m [default: the image's]
    #[arg(long, value_name = "CORES", value_parser = quantity::cpu_millicores)]
    cpu: Option<u32>,
    /// Memory in MiB, or such as 2g [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size_mb)]
    memory: Option<u32>,
    /// Writable disk in MiB, or such as 2g [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size_mb)]
    disk: Option<u32>,
    /// GPUs, each for this bunker alone
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpus: u32,
    /// Kind of GPU, see `scaibunker workers show`
    #[arg(long, value_name = "NAME", requires = "gpus")]
    gpu_type: Option<String>,
    /// Environment variable of every command in the bunker; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = quantity::pair)]
    env: Vec<(String, String)>,
    /// What becomes of the bunker when it is idle: with `pause`, the next command resumes it
    #[arg(long, value_name = "WHAT", default_value = "terminate", value_parser = on_idle_parser())]
    on_idle: String,
    /// How long it may be paused before its memory is written out, such as 30m [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = quantity::duration_s)]
    evict_after: Option<u64>,
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

fn on_idle_parser() -> PossibleValuesParser {
    ["terminate", "pause"].into()
}

fn interface(text: &str) -> Result<Interface, String> {
    let wanted = "give it as NAME=BRIDGE or NAME=BRIDGE,MAC";
    let (if_name, rest) = text.split_once('=').ok_or(wanted)?;
    let (bridge_name, mac) = match rest.split_once(',') {
        Some((bridge, mac)) => (bridge, Some(mac.to_owned())),
        None => (rest, None),
    };
    let (if_name, bridge_name) = (if_name.to_owned(), bridge_name.to_owned());
    Ok(Interface { if_name, bridge_name, spoof_guard: true, mac })
}

impl BunkerArgs {
    /// The body of the create call.
    pub fn into_request(self) -> anyhow::Result<CreateBunker> {
        let profile: StrDeserializer<'_, serde::de::value::Error> =
            serde::de::IntoDeserializer::into_deserializer(self.network.as_str());
        Ok(CreateBunker {
            image: if self.snapshot.is_some() { String::new() } else { self.image },
            snapshot_id: self.snapshot,
            network_profile: NetworkProfile::deserialize(profile)
                .context("cannot read the network profile")?,
            network_allowlist: (!self.allowlist.is_empty()).then_some(self.allowlist),
            interfaces: (!self.interfaces.is_empty()).then(|| {
                let spoof_guard = !self.no_spoof_guard;
                let guarded = |interface| Interface { spoof_guard, ..interface };
                self.interfaces.into_iter().map(guarded).collect()
            }),
            bandwidth_mbit: self.bandwidth,
            egress_audit: self.egress_audit,
            cpu_millicores: self.cpu,
            memory_mb: self.memory,
            disk_mb: self.disk,
            gpu_count: self.gpus,
            gpu_type: self.gpu_type,
            env_vars: self.env.into_iter().collect(),
            on_idle: if self.on_idle == "pause" { OnIdle::Pause } else { OnIdle::Terminate },
            pause_evict_after_s: self.evict_after,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_a_name_a_bridge_and_perhaps_an_address() {
        let parsed = interface("eth1=br-dmz,02:00:00:00:00:01").unwrap();
        let expected = Interface {
            if_name: "eth1".to_owned(),
            bridge_name: "br-dmz".to_owned(),
            spoof_guard: true,
            mac: Some("02:00:00:00:00:01".to_owned()),
        };
        assert_eq!(parsed, expected);
        assert_eq!(interface("eth0=br0").unwrap().mac, None);
        assert!(interface("eth0").is_err());
    }
}

//! `scaibunker ls`

use clap::Args;
use jiff::Timestamp;
use scaibunker_api::bunker::Bunker;

use crate::{cli::GlobalArgs, exit::Failure, quantity, tables};

/// List bunkers, newest first; with --quiet only their ids
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Also those that have ended
    #[arg(long, short)]
    all: bool,
    /// Only those with this label; repeatable, all must match
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = quantity::pair)]
    label: Vec<(String, String)>,
}

pub async fn run(global: &GlobalArgs, args: &LsArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let mut bunkers =
        if args.all { client.all_bunkers().await? } else { client.live_bunkers().await? };
    bunkers.retain(|bunker| has_labels(bunker, &args.label));
    if output.is_json() {
        return output.document(&bunkers);
    }
    if output.is_quiet() {
        let ids: String = bunkers.iter().map(|bunker| format!("{}\n", bunker.id)).collect();
        return output.data(ids.as_bytes());
    }
    output.table(&tables::bunkers(&bunkers, Timestamp::now()))
}

fn has_labels(bunker: &Bunker, labels: &[(String, String)]) -> bool {
    labels.iter().all(|(name, value)| bunker.label_set.get(name) == Some(value))
}

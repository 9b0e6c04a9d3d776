//! `scaibunker rm`

use clap::Args;
use futures_util::{StreamExt as _, stream};

use crate::{bunker_ref, cli::GlobalArgs, exit::Failure};

/// Bunkers that are ended at the same time.
const AT_ONCE: usize = 8;

/// End bunkers, wait until nothing of them is left and print their ids
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID", required_unless_present = "all")]
    bunkers: Vec<String>,
    /// Every bunker that `scaibunker ls` shows
    #[arg(long, conflicts_with = "bunkers")]
    all: bool,
    /// Keep a last snapshot of each, which expires by itself; one that cannot be kept runs on
    #[arg(long)]
    snapshot: bool,
}

pub async fn run(global: &GlobalArgs, args: &RmArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let ids = if args.all {
        client.live_bunkers().await?.iter().map(|bunker| bunker.id).collect()
    } else {
        bunker_ref::resolve_all(&client, &args.bunkers).await?
    };
    let progress = output.progress(&format!("ending {} bunkers", ids.len()));
    let mut removals = stream::iter(ids)
        .map(|id| client.delete_bunker_and_wait(id, args.snapshot))
        .buffer_unordered(AT_ONCE);
    let (mut removed, mut failure) = (Vec::new(), None);
    while let Some(removal) = removals.next().await {
        match removal {
            Ok(bunker) => removed.push(bunker),
            // The others are still to be ended; the first failure is the one that is shown.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    drop(progress);
    if output.is_json() {
        output.document(&removed)?;
    } else {
        let ids: String = removed.iter().map(|bunker| format!("{}\n", bunker.id)).collect();
        output.data(ids.as_bytes())?;
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

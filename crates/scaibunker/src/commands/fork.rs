//! `scaibunker fork`

use anyhow::anyhow;
use clap::Args;
use scaibunker_api::bunker::{BunkerStatus, ForkRequest};

use crate::{bunker_ref, cli::GlobalArgs, exit::Failure};

/// Make copies of a bunker that go on beside it, with everything that runs in it, and print their ids
///
/// The bunker itself stands still for some milliseconds. Connections end in the copies, and output of
/// commands goes on in the bunker alone.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// How many copies
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1)]
    count: u32,
}

pub async fn run(global: &GlobalArgs, args: &ForkArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let children = client.fork_bunker(id, &ForkRequest { count: args.count }).await?;
    if output.is_json() {
        output.document(&children)?;
    } else {
        let made = children.iter().filter(|child| child.status != BunkerStatus::Failed);
        output.ids(made.map(|child| child.id))?;
    }
    match children.iter().find(|child| child.status == BunkerStatus::Failed) {
        Some(failed) => {
            let reason = failed.status_reason.as_deref().unwrap_or("no reason was given");
            Err(anyhow!("{} was not made: {reason}", failed.id).into())
        }
        None => Ok(()),
    }
}

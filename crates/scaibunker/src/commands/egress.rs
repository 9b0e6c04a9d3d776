//! `scaibunker egress`

use clap::Args;

use crate::{bunker_ref, cli::GlobalArgs, exit::Failure, tables};

/// Show what a bunker reached and tried to reach, oldest first
///
/// Only of a bunker that was made with --egress-audit. What happened in the last ten seconds may not
/// be there yet. Bunkers that have ended are named by their whole id.
#[derive(Debug, Args)]
pub struct EgressArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// Only what was refused or has failed
    #[arg(long)]
    refused: bool,
}

pub async fn run(global: &GlobalArgs, args: &EgressArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let mut events = client.egress_events(id).await?;
    if args.refused {
        events.retain(|event| event.verdict != scaibunker_api::egress::EgressVerdict::Allowed);
    }
    if output.is_json() {
        return output.document(&events);
    }
    output.table(&tables::egress_events(&events))
}

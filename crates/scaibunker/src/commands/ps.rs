//! `scaibunker ps`

use clap::Args;
use jiff::Timestamp;

use crate::{bunker_ref, cli::GlobalArgs, exit::Failure, tables};

/// List the commands of a bunker, newest first; with --quiet only their ids
///
/// Shells and detached commands are among them, and the last ones that have ended.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
}

pub async fn run(global: &GlobalArgs, args: &PsArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let execs = client.execs(id).await?;
    if output.is_json() {
        return output.document(&execs);
    }
    if output.is_quiet() {
        let ids: String = execs.iter().map(|exec| format!("{}\n", exec.exec_id)).collect();
        return output.data(ids.as_bytes());
    }
    output.table(&tables::execs(&execs, Timestamp::now()))
}

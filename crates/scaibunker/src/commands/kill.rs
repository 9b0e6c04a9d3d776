//! `scaibunker kill`

use clap::Args;
use scaibunker_api::{exec::SignalName, ids::ExecId};

use crate::{bunker_ref, cli::GlobalArgs, exit::Failure};

/// Send a signal to a command in a bunker
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// The command, see `scaibunker ps`
    exec_id: ExecId,
    /// The signal, such as SIGKILL, KILL or 9
    #[arg(long, short, value_name = "SIGNAL", default_value = "SIGTERM", value_parser = signal_name)]
    signal: SignalName,
}

fn signal_name(text: &str) -> Result<SignalName, std::convert::Infallible> {
    Ok(match text.parse() {
        Ok(number) => SignalName::Number(number),
        Err(_) => SignalName::Name(text.to_owned()),
    })
}

pub async fn run(global: &GlobalArgs, args: KillArgs) -> Result<(), Failure> {
    let client = global.client()?;
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    Ok(client.exec_signal(id, args.exec_id, args.signal).await?)
}

//! `scaibunker run`

use anyhow::Context as _;
use clap::Args;

use super::{create::BunkerArgs, exec::CommandArgs};
use crate::{
    attach::{self, Input},
    cli::GlobalArgs,
    exit::Failure,
    launch,
    signals::Stop,
};

/// Run a command in a new bunker and remove the bunker after it
///
/// The command's output is passed on while it runs, its exit code becomes this program's, and
/// input that is piped in (up to 1 MiB) becomes the command's. The bunker is also removed when
/// something fails and when this program is told to stop.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Leave the bunker running, and print its id on standard error
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    bunker: BunkerArgs,
    #[command(flatten)]
    pub command: CommandArgs,
}

pub async fn run(global: &GlobalArgs, args: RunArgs) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?.announced(output);
    // Before there is a bunker: input that cannot be sent must not cost one.
    let command = args.command.into_request([], output, &stop).await?;
    let bunker = launch::launch(&client, &args.bunker.into_request()?, output, &stop).await?;
    let code = attach::run(&client, bunker.id, command, Input::InRequest, output, &stop).await;
    if args.keep {
        output.note(&format!("the bunker {} keeps running", bunker.id));
    } else {
        launch::discard(&client, bunker.id).await;
    }
    code
}

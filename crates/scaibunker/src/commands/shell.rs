//! `scaibunker shell`

use anyhow::Context as _;
use clap::Args;

use crate::{
    bunker_ref, cli::GlobalArgs, client::ShellTarget, exit::Failure, sh_quote, shell, signals::Stop,
};

/// Open a shell in a bunker
///
/// Its exit code becomes this program's. When the connection breaks, the shell waits for 60 s and
/// this program comes back to it by itself. Input that is piped in is typed, and its end is Ctrl-D.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Id, the beginning of one, or name of a running bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// User to be [default: the image's]
    #[arg(long, short)]
    user: Option<String>,
    /// Command and arguments to run in the terminal instead of the login shell
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<String>,
}

pub async fn run(global: &GlobalArgs, args: ShellArgs) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?;
    let target = ShellTarget {
        bunker: bunker_ref::resolve(&client, &args.bunker).await?,
        command: (!args.argv.is_empty()).then(|| sh_quote::line(&args.argv)),
        user: args.user,
        shell_id: None,
    };
    shell::run(&client, target, output, &stop).await
}

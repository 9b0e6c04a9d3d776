//! `scaibunker exec`, and the options of every command that runs something in a bunker.

use anyhow::Context as _;
use clap::Args;
use scaibunker_api::exec::{Command, DEFAULT_TIMEOUT_S, ExecRequest};

use crate::{
    attach, bunker_ref, cli::GlobalArgs, exit::Failure, output::Output, quantity, signals::Stop,
};

/// What to run, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Command")]
pub struct CommandArgs {
    /// User to run as [default: the image's]
    #[arg(long, short)]
    user: Option<String>,
    /// Directory to run in [default: the image's]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Seconds, or such as 10m, after which the command is ended
    #[arg(long, value_name = "TIME", default_value_t = DEFAULT_TIMEOUT_S,
          value_parser = quantity::duration_s)]
    timeout: u64,
    /// Command and arguments; no shell takes part
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub argv: Vec<String>,
}

impl CommandArgs {
    /// The body of the exec call, with what is piped into this program as the command's input.
    pub async fn into_request(
        self,
        env: impl IntoIterator<Item = (String, String)>,
        output: Output,
        stop: &Stop,
    ) -> Result<ExecRequest, Failure> {
        Ok(ExecRequest {
            stdin_base64: attach::piped_input(output, stop).await?,
            cwd: self.cwd,
            env: env.into_iter().collect(),
            user: self.user,
            timeout_s: self.timeout,
            ..request(self.argv)
        })
    }
}

/// The body of an exec call with nothing but a command.
pub fn request(argv: Vec<String>) -> ExecRequest {
    ExecRequest {
        command: Command::Argv(argv),
        cwd: None,
        env: Default::default(),
        user: None,
        stdin: None,
        stdin_base64: None,
        timeout_s: DEFAULT_TIMEOUT_S,
        stream: false,
        detach: false,
        stdin_open: None,
    }
}

/// Run a command in a bunker
///
/// The command's output is passed on while it runs, its exit code becomes this program's, and
/// input that is piped in (up to 1 MiB) becomes the command's.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Id, the beginning of one, or name of a running bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// Environment variable of the command; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = quantity::pair)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    command: CommandArgs,
}

pub async fn run(global: &GlobalArgs, args: ExecArgs) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?.announced(output);
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let command = args.command.into_request(args.env, output, &stop).await?;
    attach::run(&client, id, command, output, &stop).await
}

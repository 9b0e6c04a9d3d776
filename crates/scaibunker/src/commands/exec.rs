//! `scaibunker exec`, and the options of every command that runs something in a bunker.

use anyhow::Context as _;
use clap::Args;
use scaibunker_api::exec::{Command, DEFAULT_TIMEOUT_S, ExecRequest};

use crate::{
    attach::{self, Input},
    bunker_ref,
    cli::GlobalArgs,
    client::ShellTarget,
    exit::Failure,
    output::Output,
    quantity, sh_quote, shell,
    signals::Stop,
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
        let stdin_base64 = attach::piped_input(output, stop).await?;
        Ok(ExecRequest { stdin_base64, ..self.without_input(env) })
    }

    fn without_input(self, env: impl IntoIterator<Item = (String, String)>) -> ExecRequest {
        ExecRequest {
            cwd: self.cwd,
            env: env.into_iter().collect(),
            user: self.user,
            timeout_s: self.timeout,
            ..request(self.argv)
        }
    }

    /// The command as a line for `sh`, which a terminal is started with.
    fn line(&self, env: &[(String, String)]) -> String {
        let mut words = Vec::new();
        if !env.is_empty() {
            words.push("env".to_owned());
            words.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
        }
        words.extend_from_slice(&self.argv);
        let exec = format!("exec {}", sh_quote::line(&words));
        match &self.cwd {
            Some(cwd) => format!("cd {} && {exec}", sh_quote::quote(cwd)),
            None => exec,
        }
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
/// input that is piped in (up to 1 MiB, with -i any amount) becomes the command's.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Id, the beginning of one, or name of a running bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// Environment variable of the command; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = quantity::pair)]
    env: Vec<(String, String)>,
    /// Pass standard input on while the command runs
    #[arg(long, short)]
    interactive: bool,
    /// Run the command in a terminal, as `scaibunker shell` does; without a time limit
    #[arg(long, short, conflicts_with_all = ["timeout", "detach"])]
    tty: bool,
    /// Print the command's id and leave it running, until --timeout is over; see `scaibunker logs`
    #[arg(long, short, conflicts_with = "interactive")]
    detach: bool,
    #[command(flatten)]
    command: CommandArgs,
}

pub async fn run(global: &GlobalArgs, args: ExecArgs) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?;
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    if args.tty {
        let target = ShellTarget {
            bunker: id,
            command: Some(args.command.line(&args.env)),
            user: args.command.user,
            shell_id: None,
        };
        return shell::run(&client, target, output, &stop).await;
    }
    let stop = stop.announced(output);
    if args.interactive && !output.is_json() {
        let command = args.command.without_input(args.env);
        return attach::run(&client, id, command, Input::Streamed, output, &stop).await;
    }
    let command = args.command.into_request(args.env, output, &stop).await?;
    if args.detach {
        let command = ExecRequest { detach: true, stdin_open: Some(false), ..command };
        let detached = client.exec_detached(id, &command).await?;
        if output.is_json() {
            output.document(&detached)?;
        } else {
            output.line(&detached.exec_id.to_string())?;
        }
        return Ok(0);
    }
    attach::run(&client, id, command, Input::InRequest, output, &stop).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_a_terminal_is_the_one_that_was_given() {
        let args = |cwd: Option<&str>, argv: &[&str]| CommandArgs {
            user: None,
            cwd: cwd.map(str::to_owned),
            timeout: DEFAULT_TIMEOUT_S,
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
        };
        assert_eq!(args(None, &["vi", "a b"]).line(&[]), "exec vi 'a b'");
        let env = [("A".to_owned(), "it's".to_owned())];
        assert_eq!(
            args(Some("/my dir"), &["make"]).line(&env),
            r"cd '/my dir' && exec env 'A=it'\''s' make"
        );
    }
}

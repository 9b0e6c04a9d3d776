//! The command line.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::{
    bench::BenchArgs,
    client::{Client, DEFAULT_URL, Endpoint},
    commands::{
        completions::CompletionsArgs, cp::CpArgs, create::CreateArgs, doctor::DoctorArgs,
        exec::ExecArgs, files::FilesArgs, kill::KillArgs, logs::LogsArgs, ls::LsArgs, ps::PsArgs,
        rm::RmArgs, run::RunArgs, shell::ShellArgs,
    },
    exit::{self, Failure},
    output::Output,
    paths,
    up::UpArgs,
};

/// Sandboxed compute for AI agents: every bunker is a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "scaibunker", version, after_help = exit::HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Where the controller is; its API key comes from SCAIBUNKER_API_KEY, else, for a server on
    /// this machine, from the data directory
    #[arg(long, global = true, env = "SCAIBUNKER_URL", hide_env_values = true, default_value = DEFAULT_URL)]
    url: String,
    /// Directory of the server on this machine [default: $XDG_DATA_HOME/scaibunker]
    #[arg(
        long,
        global = true,
        env = "SCAIBUNKER_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR"
    )]
    data_dir: Option<PathBuf>,
    /// Print the API's objects, as one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but data and errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

impl GlobalArgs {
    /// How the caller wants to be spoken to.
    pub fn output(&self) -> Output {
        Output::new(self.json, self.quiet)
    }

    /// The directory of the server on this machine.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        self.data_dir
            .clone()
            .or_else(paths::default_data_dir)
            .context("no data directory: neither HOME nor XDG_DATA_HOME is set; give --data-dir")
    }

    /// A client of the controller; nothing is dialled yet.
    pub fn client(&self) -> Result<Client, Failure> {
        let data_dir = self.data_dir.clone().or_else(paths::default_data_dir);
        let endpoint = Endpoint::resolve(&self.url, data_dir.as_deref())
            .map_err(|error| Failure::Error(error.into()))?;
        Ok(Client::new(&endpoint)?)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Create(CreateArgs),
    Ls(LsArgs),
    Exec(ExecArgs),
    Shell(ShellArgs),
    Cp(CpArgs),
    Files(FilesArgs),
    Ps(PsArgs),
    Logs(LogsArgs),
    Kill(KillArgs),
    Rm(RmArgs),
    /// List the images bunkers can be made from
    Images,
    /// List the workers that run bunkers
    Workers,
    Bench(BenchArgs),
    Up(UpArgs),
    Doctor(DoctorArgs),
    Completions(CompletionsArgs),
}

impl Command {
    /// What is logged unless the environment says otherwise.
    pub fn default_log_filter(&self) -> &'static str {
        match self {
            Self::Up(_) => "info",
            _ => "warn",
        }
    }

    /// The exit code of a failure that is not the command's in the bunker.
    pub fn failure_code(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) | Self::Shell(_) | Self::Logs(_) => {
                exit::FAILED_AROUND_COMMAND
            }
            _ => exit::FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn verify_cli() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_belongs_to_it() {
        let line = ["scaibunker", "run", "--image", "busybox", "--", "ls", "--json", "-q"];
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(!cli.global.json && !cli.global.quiet);
        let Command::Run(run) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!(run.command.argv, ["ls", "--json", "-q"]);
    }
}

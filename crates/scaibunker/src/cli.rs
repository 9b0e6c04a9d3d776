//! The command line.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::{
    bench::BenchArgs,
    client::{API_KEY_VARIABLE, Client, Credential, DEFAULT_URL, DataDir, Endpoint},
    commands::{
        audit::AuditArgs,
        bridges::BridgesArgs,
        completions::CompletionsArgs,
        cp::CpArgs,
        create::CreateArgs,
        doctor::DoctorArgs,
        egress::EgressArgs,
        events::EventsArgs,
        exec::ExecArgs,
        files::FilesArgs,
        fork::ForkArgs,
        groups::GroupsArgs,
        images::ImagesArgs,
        keys::KeysArgs,
        kill::KillArgs,
        login::LoginArgs,
        logs::LogsArgs,
        ls::LsArgs,
        partners::PartnersArgs,
        pause::PauseArgs,
        ps::PsArgs,
        quota::QuotaArgs,
        rm::RmArgs,
        roles::RolesArgs,
        run::RunArgs,
        set::SetArgs,
        shell::ShellArgs,
        snapshots::{SnapshotArgs, SnapshotsArgs},
        tenants::TenantsArgs,
        users::UsersArgs,
        workers::WorkersArgs,
    },
    controller::ControllerArgs,
    credentials,
    exit::{self, Failure},
    logging::LogFormat,
    output::Output,
    paths,
    proxy::ProxyArgs,
    secret,
    up::UpArgs,
    worker::WorkerDaemonArgs,
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
    /// Where the controller is [default: the server of `scaibunker login`, else
    /// http://127.0.0.1:8420]. Its API key comes from SCAIBUNKER_API_KEY, else from the login if
    /// that is for this server, else, for a server on this machine, from the data directory
    #[arg(long, global = true, env = "SCAIBUNKER_URL", hide_env_values = true)]
    url: Option<String>,
    /// Directory of the server on this machine, whose admin key is then used even if there is a
    /// login [default: SCAIBUNKER_DATA_DIR, else $XDG_DATA_HOME/scaibunker; with these, a login
    /// comes first]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print the API's objects, as one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but data and errors
    #[arg(long, short, global = true)]
    quiet: bool,
    /// How log lines go to standard error, `human` or `json`; which ones, SCAIBUNKER_LOG says
    #[arg(
        long,
        global = true,
        env = "SCAIBUNKER_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        default_value_t
    )]
    log_format: LogFormat,
}

/// The login, where there is a place for one.
fn stored_login() -> anyhow::Result<Option<Credential>> {
    match credentials::path() {
        Ok(path) => credentials::read(&path),
        Err(_) => Ok(None),
    }
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
        let api_key = secret::of_environment(API_KEY_VARIABLE);
        // Who names both needs no login, not even one that can be read.
        let login = if self.url.is_some() && api_key.is_some() { None } else { stored_login()? };
        let usual_dir = paths::default_data_dir();
        let data_dir = match &self.data_dir {
            Some(dir) => DataDir::Named(dir),
            None => DataDir::Usual(usual_dir.as_deref()),
        };
        let endpoint =
            Endpoint::resolve(self.url.as_deref(), api_key.as_deref(), login.as_ref(), data_dir);
        Ok(Client::new(&endpoint.map_err(anyhow::Error::from)?)?)
    }

    /// The address of the controller.
    pub fn server_url(&self) -> anyhow::Result<String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        if self.data_dir.is_some() {
            return Ok(DEFAULT_URL.to_owned());
        }
        Ok(stored_login()?.map_or_else(|| DEFAULT_URL.to_owned(), |login| login.url))
    }

    /// How log lines are written.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
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
    Egress(EgressArgs),
    Ps(PsArgs),
    Logs(LogsArgs),
    Kill(KillArgs),
    /// Stop the CPUs of bunkers and print their ids
    ///
    /// They keep their memory, disks and place in the quotas, but use no CPU of them.
    Pause(PauseArgs),
    /// Let paused bunkers run again and print their ids
    Resume(PauseArgs),
    Fork(ForkArgs),
    Set(SetArgs),
    Events(EventsArgs),
    Rm(RmArgs),
    Snapshot(SnapshotArgs),
    Snapshots(SnapshotsArgs),
    Images(ImagesArgs),
    Workers(WorkersArgs),
    Quota(QuotaArgs),
    Login(LoginArgs),
    /// Forget the stored API key
    ///
    /// The key itself stays valid; `scaibunker keys rm` revokes it.
    Logout,
    /// Show who the API key belongs to and what it may do
    Whoami,
    Keys(KeysArgs),
    Users(UsersArgs),
    Groups(GroupsArgs),
    Roles(RolesArgs),
    Tenants(TenantsArgs),
    Partners(PartnersArgs),
    Audit(AuditArgs),
    Bridges(BridgesArgs),
    Bench(BenchArgs),
    Up(Box<UpArgs>),
    Controller(Box<ControllerArgs>),
    Worker(Box<WorkerDaemonArgs>),
    Proxy(ProxyArgs),
    Doctor(DoctorArgs),
    Completions(CompletionsArgs),
    /// Unpack layers in a jail; started by the worker
    #[command(name = scaibunker_worker::bake::HELPER_COMMAND, hide = true)]
    BakeHelper,
    /// Carry what bunkers send into the world; started by the worker
    #[command(name = scaibunker_egress::HELPER_COMMAND, hide = true)]
    EgressGateway {
        /// An empty directory
        root: PathBuf,
        uid: u32,
    },
}

impl Command {
    /// What is logged unless the environment says otherwise.
    pub fn default_log_filter(&self) -> &'static str {
        match self {
            Self::Up(_) | Self::Controller(_) | Self::Worker(_) | Self::Proxy(_) => "info",
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

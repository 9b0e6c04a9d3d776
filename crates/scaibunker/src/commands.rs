//! The commands, one module each.

pub mod audit;
pub mod bridges;
pub mod completions;
pub mod cp;
pub mod create;
pub mod doctor;
pub mod egress;
pub mod events;
pub mod exec;
pub mod files;
pub mod fork;
pub mod groups;
pub mod images;
pub mod keys;
pub mod kill;
pub mod login;
pub mod logs;
pub mod ls;
pub mod partners;
pub mod pause;
pub mod ps;
pub mod quota;
pub mod rm;
pub mod roles;
pub mod run;
pub mod set;
pub mod shell;
pub mod snapshots;
pub mod tenants;
pub mod users;
pub mod whoami;
pub mod workers;

use std::process::ExitCode;

use crate::{
    bench,
    cli::{Cli, Command},
    controller,
    exit::Failure,
    proxy, up, worker,
};

/// Runs the command that was asked for and says what went wrong, if something did.
pub async fn run(cli: Cli) -> ExitCode {
    let failure_code = cli.command.failure_code();
    match dispatch(cli).await {
        Ok(code) => code.into(),
        Err(failure) => failure.exit(failure_code),
    }
}

/// Gives the exit code.
async fn dispatch(Cli { global, command }: Cli) -> Result<u8, Failure> {
    match command {
        Command::Run(args) => return run::run(&global, args).await,
        Command::Exec(args) => return exec::run(&global, args).await,
        Command::Shell(args) => return shell::run(&global, args).await,
        Command::Logs(args) => return logs::run(&global, &args).await,
        Command::Bench(args) => return bench::run(&global, args).await,
        Command::Doctor(args) => return doctor::run(&global, &args).await,
        Command::Up(args) => up::run(&global, *args).await?,
        Command::Controller(args) => controller::run(&global, *args).await?,
        Command::Worker(args) => worker::run(&global, *args).await?,
        Command::Proxy(args) => proxy::run(&global, args).await?,
        Command::Create(args) => create::run(&global, args).await?,
        Command::Ls(args) => ls::run(&global, &args).await?,
        Command::Rm(args) => rm::run(&global, &args).await?,
        Command::Cp(args) => cp::run(&global, args).await?,
        Command::Files(args) => files::run(&global, args).await?,
        Command::Egress(args) => egress::run(&global, &args).await?,
        Command::Ps(args) => ps::run(&global, &args).await?,
        Command::Kill(args) => kill::run(&global, args).await?,
        Command::Pause(args) => pause::pause(&global, &args).await?,
        Command::Resume(args) => pause::resume(&global, &args).await?,
        Command::Fork(args) => fork::run(&global, &args).await?,
        Command::Set(args) => set::run(&global, args).await?,
        Command::Events(args) => events::run(&global, &args).await?,
        Command::Quota(args) => quota::run(&global, args).await?,
        Command::Login(args) => login::run(&global, &args).await?,
        Command::Logout => login::forget(&global)?,
        Command::Whoami => whoami::run(&global).await?,
        Command::Keys(args) => keys::run(&global, args).await?,
        Command::Users(args) => users::run(&global, args).await?,
        Command::Groups(args) => groups::run(&global, args).await?,
        Command::Roles(args) => roles::run(&global, args).await?,
        Command::Tenants(args) => tenants::run(&global, args).await?,
        Command::Partners(args) => partners::run(&global, args).await?,
        Command::Audit(args) => audit::run(&global, args).await?,
        Command::Images(args) => images::run(&global, args).await?,
        Command::Workers(args) => workers::run(&global, args).await?,
        Command::Snapshot(args) => snapshots::take(&global, args).await?,
        Command::Snapshots(args) => snapshots::run(&global, args).await?,
        Command::Bridges(args) => bridges::run(&global, args).await?,
        Command::Completions(args) => completions::run(&global, &args)?,
        // `main` runs them, before there are threads.
        Command::BakeHelper | Command::EgressGateway { .. } => {}
    }
    Ok(0)
}

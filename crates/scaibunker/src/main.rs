//! The `scaibunker` program: client commands here, server roles beside them.

mod attach;
mod bar;
mod bench;
mod bucket;
mod bunker_ref;
mod cli;
mod client;
mod commands;
mod controller;
mod copy;
mod credentials;
mod exit;
mod launch;
mod logging;
mod object_ref;
mod options;
mod output;
mod paths;
mod proxy;
mod quantity;
mod records;
mod secret;
mod sh_quote;
mod shell;
mod signals;
mod systemd;
mod tables;
mod terminal;
mod up;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Both give up rights, which a process with threads does not do as a whole.
    match cli.command {
        Command::BakeHelper => return scaibunker_worker::bake::helper_main(),
        Command::EgressGateway { root, uid } => {
            return scaibunker_egress::helper_main(&root, uid);
        }
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(exit::FAILED, &format!("cannot start: {error}")),
    };
    let (filter, format) = (cli.command.default_log_filter(), cli.global.log_format());
    let logging = logging::init(filter, format, runtime.handle());
    let code = runtime.block_on(commands::run(cli));
    logging.end();
    // A read of standard input cannot be cancelled; nothing else is left to wait for.
    runtime.shutdown_background();
    code
}

//! `scaibunker completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{
    cli::{Cli, GlobalArgs},
    exit::Failure,
};

/// Print a completion script for a shell
///
/// For bash: `source <(scaibunker completions bash)`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

pub fn run(global: &GlobalArgs, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "scaibunker", &mut script);
    global.output().data(&script)
}

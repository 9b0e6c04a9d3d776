//! `scaibunker doctor`: is this machine fit to run bunkers, and what would make it fitter?

use clap::Args;
use scaibunker_worker::doctor::{self, Level};

use crate::{
    cli::GlobalArgs,
    exit::{self, Failure},
    options::WorkerArgs,
    tables,
};

/// Check whether this machine can run bunkers, and say what to do where it cannot
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    worker: WorkerArgs,
}

/// Gives the exit code: a failed check is a failure.
pub async fn run(global: &GlobalArgs, args: &DoctorArgs) -> Result<u8, Failure> {
    // Nothing is dialled, so neither URL nor token matter.
    let config = args.worker.config(&global.data_dir()?, Vec::new(), String::new())?;
    let findings = doctor::examine(&config).await;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    let output = global.output();
    if output.is_json() {
        output.document(&findings)?;
    } else {
        let rows = findings.iter().map(|finding| {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Info => "info",
                Level::Warn => "warning",
                Level::Fail => "FAILED",
            };
            let remedy = finding.remedy.clone().unwrap_or_default();
            [level.to_owned(), finding.check.clone(), finding.message.clone(), remedy]
        });
        output.table(&tables::table(["", "CHECK", "FOUND", "WHAT TO DO"], rows))?;
    }
    Ok(if failed { exit::FAILED } else { 0 })
}

//! `scaibunker workers`

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use scaibunker_api::{ids::WorkerId, worker::Worker};

use crate::{
    cli::GlobalArgs, client::Client, exit::Failure, object_ref::resolve, output::Output, records,
    tables,
};

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// List the workers that run bunkers, and take them out of service
#[derive(Debug, Args)]
pub struct WorkersArgs {
    #[command(subcommand)]
    what: Option<Workers>,
}

#[derive(Debug, Subcommand)]
enum Workers {
    /// List workers, newest first; with --quiet only their ids
    Ls,
    /// Show a worker
    Show {
        /// Id or name
        worker: String,
    },
    /// Have a worker take no new bunkers; those that it has go on
    Drain {
        /// Id or name
        worker: String,
        /// Wait until it has no bunkers any more
        #[arg(long)]
        wait: bool,
    },
    /// Have a drained worker take bunkers again
    Resume {
        /// Id or name
        worker: String,
    },
    /// Forget workers that are offline, and print their ids
    Rm {
        /// Id or name
        #[arg(value_name = "WORKER", required = true)]
        workers: Vec<String>,
    },
}

pub async fn run(global: &GlobalArgs, args: WorkersArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let now = Timestamp::now();
    match args.what.unwrap_or(Workers::Ls) {
        Workers::Ls => {
            let workers = client.list::<Worker>().await?;
            records::list(output, &workers, |workers| tables::workers(workers, now))
        }
        Workers::Show { worker } => {
            let id = resolve::<Worker>(&client, &worker).await?;
            let worker = client.read::<Worker>(id).await?;
            records::one(output, &worker, |worker| tables::worker(worker, now))
        }
        Workers::Drain { worker, wait } => {
            let id = resolve::<Worker>(&client, &worker).await?;
            let mut worker = client.set_drained(id, true).await?;
            if wait {
                worker = emptied(&client, output, id, worker).await?;
            }
            records::one(output, &worker, |worker| tables::worker(worker, now))
        }
        Workers::Resume { worker } => {
            let id = resolve::<Worker>(&client, &worker).await?;
            let worker = client.set_drained(id, false).await?;
            records::one(output, &worker, |worker| tables::worker(worker, now))
        }
        Workers::Rm { workers } => records::remove::<Worker>(&client, output, &workers).await,
    }
}

/// The worker, once nothing runs there any more.
async fn emptied(
    client: &Client,
    output: Output,
    id: WorkerId,
    mut worker: Worker,
) -> Result<Worker, Failure> {
    let progress = output.progress("waiting for bunkers to end");
    while worker.bunkers > 0 {
        progress.say(&format!("waiting for {} bunkers to end", worker.bunkers));
        tokio::time::sleep(POLL_INTERVAL).await;
        worker = client.read::<Worker>(id).await?;
    }
    Ok(worker)
}

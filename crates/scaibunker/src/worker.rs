//! `scaibunker worker`: a worker of controllers elsewhere.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use scaibunker_worker::Worker;
use tokio::time::timeout;

use crate::{
    bucket::origin, cli::GlobalArgs, exit::Failure, options::WorkerArgs, secret, signals::Stop,
    systemd,
};

/// How long bunkers may take to end once the worker is asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Run a worker: microVMs for controllers, which it dials
///
/// It knows them by SCAIBUNKER_WORKER_TOKEN, which has to be set here and there. Nothing connects to
/// a worker. Certificates of https controllers are checked with the machine's roots, or with those in
/// the file that SSL_CERT_FILE names.
#[derive(Debug, Args)]
pub struct WorkerDaemonArgs {
    /// A controller, or a load balancer in front of them; it tells of the others. May be given more
    /// than once
    #[arg(
        long = "controller",
        env = "SCAIBUNKER_CONTROLLER_URL",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = origin,
        required = true
    )]
    controllers: Vec<String>,
    /// The storage proxy [default: the first controller]
    #[arg(long, env = "SCAIBUNKER_STORAGE_URL", value_name = "URL", value_parser = origin)]
    storage: Option<String>,
    #[command(flatten)]
    worker: WorkerArgs,
}

/// Works until a signal asks for the end.
pub async fn run(global: &GlobalArgs, args: WorkerDaemonArgs) -> Result<(), Failure> {
    let data_dir = global.data_dir()?;
    let worker_token = secret::existing_worker_token(&data_dir)?
        .context("no worker token: set SCAIBUNKER_WORKER_TOKEN to the controllers'")?;
    secret::make_private_dir(&data_dir)?;
    let mut config = args.worker.config(&data_dir, args.controllers, worker_token)?;
    config.storage_url = args.storage;
    let output = global.output();
    let progress = move |text: &str| output.note(text);
    let stop = Stop::listen().context("cannot listen for signals")?;
    let worker = tokio::select! {
        started = Worker::start(config, &progress) => started.map_err(anyhow::Error::from)?,
        signal = stop.requested() => return Err(Failure::Stopped(signal)),
    };
    // Ready for whoever started it: bunkers of an earlier one are taken care of, controllers or not.
    systemd::ready();
    tokio::select! {
        () = worker.linked() => {
            output.note("linked with a controller");
            stop.requested().await;
        }
        _ = stop.requested() => {}
    }
    tracing::info!("asked to stop");
    if timeout(STOP_LIMIT, worker.stop()).await.is_err() {
        tracing::warn!("bunkers did not end in time; the next start frees what is left of them");
    }
    Ok(())
}

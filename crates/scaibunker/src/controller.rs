//! `scaibunker controller`: a controller and its storage proxy, without a worker.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Args;
use scaibunker_controller::{Controller, ControllerConfig, RateLimits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    bucket::origin,
    cli::GlobalArgs,
    exit::Failure,
    options::{ControllerOptions, TlsArgs},
    secret,
    signals::Stop,
    systemd,
    up::DEFAULT_LISTEN,
};

/// Run a controller with its storage proxy; workers dial it
///
/// Workers know it by SCAIBUNKER_WORKER_TOKEN, which has to be set here and there. Several
/// controllers share a database server (--database), a Redis server (--redis), a bucket
/// (--s3-bucket) and SCAIBUNKER_CAPABILITY_SECRET, and each tells workers its own address
/// (--advertise). With --tls-cert and --tls-key it serves TLS, else put something in front that ends
/// it. The first one that starts puts the admin key into its data directory.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Address to listen on
    #[arg(long, env = "SCAIBUNKER_LISTEN", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Where workers reach this controller itself, not another one behind the same load balancer,
    /// such as http://10.0.0.5:8420; needed where there are several
    #[arg(long, env = "SCAIBUNKER_ADVERTISE_URL", value_name = "URL", value_parser = origin)]
    advertise: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    options: ControllerOptions,
}

/// Serves until a signal asks for the end.
pub async fn run(global: &GlobalArgs, args: ControllerArgs) -> Result<(), Failure> {
    let data_dir = global.data_dir()?;
    let worker_token = secret::existing_worker_token(&data_dir)?
        .context("no worker token: set SCAIBUNKER_WORKER_TOKEN, here and for the workers")?;
    secret::make_private_dir(&data_dir)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another --listen", args.listen))?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let config = ControllerConfig {
        advertise_url: args.advertise,
        tls: args.tls.files(),
        ..args.options.config(data_dir, worker_token, RateLimits::default())?
    };
    let stop = Stop::listen().context("cannot listen for signals")?;
    let controller = Controller::open(config).await.map_err(anyhow::Error::from)?;
    global.output().note(&format!("ready at {}://{address}", args.tls.scheme()));
    systemd::ready();
    let shutdown = CancellationToken::new();
    let serving = controller.serve(listener, shutdown.clone());
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        _ = stop.requested() => {
            tracing::info!("asked to stop");
            shutdown.cancel();
            serving.await
        }
    };
    Ok(ended.map_err(anyhow::Error::from)?)
}

//! `scaibunker proxy`: the storage proxy alone, without controller, database or Redis.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use scaibunker_controller::server::{self, Endings, TlsFiles};
use scaibunker_storage::{Objects, SigningSecret, WorkerToken};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    bucket::BucketArgs, cli::GlobalArgs, exit::Failure, options::TlsArgs, secret, signals::Stop,
    systemd,
};

/// Where the proxy listens unless told otherwise.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8421);

/// How long requests may take to end once the proxy is asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Run the storage proxy alone: objects in and out of a directory or a bucket
///
/// Workers and the controller reach it with the same SCAIBUNKER_WORKER_TOKEN. For capability tokens
/// and signed URLs, SCAIBUNKER_CAPABILITY_SECRET must be the controller's too; one that
/// SCAIBUNKER_CAPABILITY_SECRET_PREVIOUS names is still accepted. What the environment does not set
/// is taken from the data directory, if a server has put it there. Objects are in its `objects`.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Address to listen on
    #[arg(long, env = "SCAIBUNKER_PROXY_LISTEN", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    bucket: BucketArgs,
}

/// Serves until a signal asks for the end.
pub async fn run(global: &GlobalArgs, args: ProxyArgs) -> Result<(), Failure> {
    let data_dir = global.data_dir()?;
    let worker_token = secret::existing_worker_token(&data_dir)?.with_context(|| {
        format!(
            "no worker token: set SCAIBUNKER_WORKER_TOKEN to the controller's, or give the \
             --data-dir of its server ({} has none)",
            data_dir.display()
        )
    })?;
    secret::make_private_dir(&data_dir)?;
    let tls = args.tls.files().map(TlsFiles::acceptor).transpose().map_err(anyhow::Error::from)?;
    let objects = objects(&args.bucket, &data_dir)?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is a proxy running already? choose another --listen",
            args.listen
        )
    })?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let stop = Stop::listen().context("cannot listen for signals")?;

    let router = scaibunker_storage::alone(objects, WorkerToken::new(&worker_token));
    let endings = Endings { draining: CancellationToken::new(), cut: CancellationToken::new() };
    let Endings { draining, cut } = endings.clone();
    let accepting = tokio::spawn(server::accept(listener, tls, router, endings));
    global.output().note(&format!("ready at {}://{address}", args.tls.scheme()));
    systemd::ready();
    stop.requested().await;
    tracing::info!("asked to stop: no new connections");
    draining.cancel();
    let connections = accepting.await.context("the proxy crashed")?;
    if timeout(STOP_LIMIT, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "some requests did not end in time");
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

fn objects(bucket: &BucketArgs, data_dir: &Path) -> anyhow::Result<Objects> {
    let secret = secret::existing_capability_secret(data_dir)?;
    if secret.is_none() {
        tracing::warn!(
            "no SCAIBUNKER_CAPABILITY_SECRET: capability tokens and signed URLs are refused"
        );
    }
    let previous = secret::of_environment(secret::PREVIOUS_CAPABILITY_SECRET_VARIABLE);
    let secret = secret.map(|secret| {
        let secret = SigningSecret::new(&secret);
        previous.iter().fold(secret, |secret, previous| secret.accepting(previous))
    });
    Ok(match bucket.config()? {
        Some(config) => Objects::s3(config, secret)?,
        None => Objects::directory(&data_dir.join("objects"), secret)?,
    })
}

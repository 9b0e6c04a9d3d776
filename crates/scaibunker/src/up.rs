//! `scaibunker up`: controller, storage proxy and one worker in this process, over the real link.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use scaibunker_controller::{Controller, RateLimits};
use scaibunker_worker::Worker;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::GlobalArgs,
    exit::Failure,
    options::{ControllerOptions, WorkerArgs},
    secret,
    signals::Stop,
    systemd,
};

/// Where the server listens unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8420);

/// How long bunkers and requests may take to end once the server is asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Run a whole server on this machine: controller, storage and one worker
///
/// Its secrets are made when it first starts and stay in the data directory; the environment
/// variables SCAIBUNKER_WORKER_TOKEN and SCAIBUNKER_CAPABILITY_SECRET replace them. To change the
/// second without ending what it has signed, keep the old one in SCAIBUNKER_CAPABILITY_SECRET_PREVIOUS
/// for a week.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Address to listen on
    #[arg(long, env = "SCAIBUNKER_LISTEN", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    #[command(flatten)]
    controller: ControllerOptions,
    #[command(flatten)]
    worker: WorkerArgs,
}

/// Serves until a signal asks for the end.
pub async fn run(global: &GlobalArgs, args: UpArgs) -> Result<(), Failure> {
    let data_dir = global.data_dir()?;
    secret::make_private_dir(&data_dir)?;
    let worker_token = secret::worker_token(&data_dir)?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is a server running already? choose another --listen",
            args.listen
        )
    })?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let url = format!("http://{address}");

    // On one machine nobody is limited unless it is asked for.
    let config = args.controller.config(data_dir.clone(), worker_token.clone(), RateLimits::OFF)?;
    let controller = Controller::open(config).await.map_err(anyhow::Error::from)?;
    let stop_serving = CancellationToken::new();
    let mut serving = tokio::spawn(controller.serve(listener, stop_serving.clone()));

    let worker = args.worker.config(&data_dir, vec![loopback_url(address)], worker_token)?;
    let output = global.output();
    let progress = move |text: &str| output.note(text);
    let stop = Stop::listen().context("cannot listen for signals")?;
    let worker = tokio::select! {
        started = Worker::start(worker, &progress) => started.map_err(anyhow::Error::from)?,
        signal = stop.requested() => return Err(Failure::Stopped(signal)),
        ended = &mut serving => return Err(ended_early(ended).into()),
    };
    tokio::select! {
        () = worker.linked() => {
            output.note(&format!("ready at {url}"));
            systemd::ready();
        }
        _ = stop.requested() => {}
        ended = &mut serving => return Err(ended_early(ended).into()),
    }
    let mut failure = None;
    tokio::select! {
        _ = stop.requested() => tracing::info!("asked to stop"),
        ended = &mut serving => failure = Some(ended_early(ended)),
    }
    // The worker first, so that the controller still hears how its bunkers ended.
    if timeout(STOP_LIMIT, worker.stop()).await.is_err() {
        tracing::warn!("bunkers did not end in time; the next start frees what is left of them");
    }
    stop_serving.cancel();
    match failure {
        Some(failure) => Err(failure.into()),
        None => Ok(served(timeout(STOP_LIMIT, serving).await.context("requests did not end")?)?),
    }
}

type Served = Result<Result<(), scaibunker_controller::ControllerError>, tokio::task::JoinError>;

fn served(ended: Served) -> anyhow::Result<()> {
    Ok(ended.context("the controller crashed")??)
}

fn ended_early(ended: Served) -> anyhow::Error {
    served(ended).err().unwrap_or_else(|| anyhow::anyhow!("the controller stopped by itself"))
}

/// Where the worker of this process reaches the controller: a wildcard address is not one to dial.
fn loopback_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        });
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_dials_loopback_when_every_address_is_served() {
        assert_eq!(loopback_url("0.0.0.0:1".parse().unwrap()), "http://127.0.0.1:1");
        assert_eq!(loopback_url("[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(loopback_url("10.0.0.1:1".parse().unwrap()), "http://10.0.0.1:1");
    }
}

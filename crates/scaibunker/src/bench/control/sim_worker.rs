//! A worker without microVMs: it speaks the real protocol over a real link and answers at once, so
//! that a bench of the control plane measures nothing else.

use std::{convert::Infallible, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use scaibunker_api::{
    ids::BunkerId,
    image::RootConfig,
    worker::{
        BunkerReport, Capacity, HEARTBEAT_INTERVAL_S, Heartbeat, PROTOCOL_VERSION, ReadyImage,
        RegisterWorker, WorkerBunkerState,
    },
};
use scaibunker_worker::link::ControllerClient;
use tokio::{task::JoinSet, time::interval};

/// More than any bench asks for.
const CAPACITY: Capacity =
    Capacity { cpu_millicores: 1 << 40, memory_mb: 1 << 40, disk_mb: 1 << 40 };

/// The simulated worker; it goes away when this is dropped.
#[derive(Debug)]
pub struct SimWorker {
    _tasks: JoinSet<()>,
}

impl SimWorker {
    /// Registers with the controller at `base` and serves its link.
    pub async fn link(base: &str, token: &str) -> anyhow::Result<Self> {
        let controller = ControllerClient::new(base, token)?;
        let registered = controller.register(&introduction()).await?;
        let connection = controller.dial(registered.worker_id).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let serving = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(4_096)
                .serve_connection(connection, service_fn(answer));
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the simulated worker's link broke");
            }
        });
        tasks.spawn(async move {
            let mut beats = interval(Duration::from_secs(HEARTBEAT_INTERVAL_S));
            loop {
                beats.tick().await;
                let beat = Heartbeat {
                    images: vec![image()],
                    image_cache: Vec::new(),
                    bunkers: Vec::new(),
                };
                if let Err(error) = controller.heartbeat(registered.worker_id, &beat).await {
                    tracing::warn!(%error, "the simulated worker's heartbeat failed");
                }
            }
        });
        Ok(Self { _tasks: tasks })
    }
}

fn introduction() -> RegisterWorker {
    RegisterWorker {
        worker_id: None,
        name: "simulated".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol_version: PROTOCOL_VERSION,
        engine: "simulated".to_owned(),
        capacity: CAPACITY,
        images: vec![image()],
        image_cache: Vec::new(),
    }
}

fn image() -> ReadyImage {
    ReadyImage {
        name: "simulated".to_owned(),
        digest: "sha256:0".to_owned(),
        size_bytes: 0,
        default_cpu_millicores: 1_000,
        default_memory_mb: 256,
        config: RootConfig::default(),
        default_disk_mb: 64,
    }
}

/// Starts and ends whatever it is asked to, and holds nothing.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match (request.method(), request.uri().path().strip_prefix("/bunkers")) {
        (&Method::GET, Some("")) => json(b"[]".to_vec()),
        (&Method::PUT, Some(id)) => started(id.trim_start_matches('/')),
        (&Method::DELETE, Some(_)) => Ok(empty(StatusCode::NO_CONTENT)),
        _ => Ok(empty(StatusCode::NOT_FOUND)),
    };
    Ok(answer.unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR)))
}

fn started(id: &str) -> anyhow::Result<Response<Full<Bytes>>> {
    let id: BunkerId = id.parse().context("the path names no bunker")?;
    let now = Some(Timestamp::now());
    let state = WorkerBunkerState::Running;
    json(serde_json::to_vec(&BunkerReport { id, state, started_at: now, last_active_at: now })?)
}

fn json(body: Vec<u8>) -> anyhow::Result<Response<Full<Bytes>>> {
    Ok(Response::builder().header("content-type", "application/json").body(Full::from(body))?)
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

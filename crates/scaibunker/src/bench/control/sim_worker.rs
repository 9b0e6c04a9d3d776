//! A worker without microVMs: it speaks the real protocol over a real link and answers at once, so
//! that a bench of the control plane measures nothing else.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use scaibunker_api::{
    bunker::NetworkProfile,
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
pub const ENDLESS: Capacity =
    Capacity { cpu_millicores: 1 << 40, memory_mb: 1 << 40, disk_mb: 1 << 40, gpu_count: 0 };

/// The bunkers that it says to run.
#[derive(Debug, Clone, Default)]
struct Held(Arc<Mutex<BTreeMap<BunkerId, BunkerReport>>>);

impl Held {
    fn all(&self) -> MutexGuard<'_, BTreeMap<BunkerId, BunkerReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The simulated worker; it goes away when this is dropped.
#[derive(Debug)]
pub struct SimWorker {
    held: Held,
    _tasks: JoinSet<()>,
}

impl SimWorker {
    /// Registers with the controller at `base` and serves its link.
    pub async fn link(base: &str, token: &str, capacity: Capacity) -> anyhow::Result<Self> {
        let controller = ControllerClient::new(base, token)?;
        let registered = controller.register(&introduction(capacity)).await?;
        let connection = controller.dial(registered.worker_id).await?;
        let (mut tasks, held) = (JoinSet::new(), Held::default());
        let (answering, reporting) = (held.clone(), held.clone());
        tasks.spawn(async move {
            let answer = service_fn(move |request| {
                let answered = answer(&answering, &request);
                async move { answered }
            });
            let serving = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(4_096)
                .serve_connection(connection, answer);
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
                    bunkers: reporting.all().values().cloned().collect(),
                };
                if let Err(error) = controller.heartbeat(registered.worker_id, &beat).await {
                    tracing::warn!(%error, "the simulated worker's heartbeat failed");
                }
            }
        });
        Ok(Self { held, _tasks: tasks })
    }

    /// How many bunkers it runs.
    pub fn bunkers(&self) -> usize {
        self.held.all().len()
    }
}

fn introduction(capacity: Capacity) -> RegisterWorker {
    RegisterWorker {
        worker_id: None,
        name: "simulated".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol_version: PROTOCOL_VERSION,
        engine: "simulated".to_owned(),
        cpu_class: String::new(),
        capacity,
        gpu_type: None,
        images: vec![image()],
        image_cache: Vec::new(),
        network_profiles: vec![NetworkProfile::Isolated],
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

/// Starts and ends whatever it is asked to.
fn answer(held: &Held, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().strip_prefix("/bunkers");
    let id = path.and_then(|path| path.trim_start_matches('/').parse::<BunkerId>().ok());
    let answer = match (request.method(), id) {
        (&Method::GET, None) => {
            let all: Vec<_> = held.all().values().cloned().collect();
            serde_json::to_vec(&all).map_err(Into::into).and_then(json)
        }
        (&Method::PUT, Some(id)) => started(held, id),
        (&Method::DELETE, Some(id)) => {
            held.all().remove(&id);
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => Ok(empty(StatusCode::NOT_FOUND)),
    };
    Ok(answer.unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR)))
}

fn started(held: &Held, id: BunkerId) -> anyhow::Result<Response<Full<Bytes>>> {
    let now = Some(Timestamp::now());
    let state = WorkerBunkerState::Running;
    let report = BunkerReport { id, state, started_at: now, last_active_at: now, ip_address: None };
    let answer = json(serde_json::to_vec(&report)?);
    held.all().insert(id, report);
    answer
}

fn json(body: Vec<u8>) -> anyhow::Result<Response<Full<Bytes>>> {
    Ok(Response::builder().header("content-type", "application/json").body(Full::from(body))?)
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

//! A worker without microVMs that speaks the real protocol over a real link.

mod commands;
mod execs;
mod files;
pub mod images;
pub mod snapshots;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use jiff::Timestamp;
use scaibunker_api::{
    API_PREFIX,
    bunker::{BunkerMetrics, NetworkProfile},
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, ExecId, WorkerId},
    worker::{
        BunkerReport, Capacity, ForkBunker, ForkedBunker, Heartbeat, LINK_PROTOCOL,
        PROTOCOL_VERSION, PauseBunker, ReadyImage, RegisterWorker, StartBunker, WorkerBunkerState,
    },
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    sync::{Notify, broadcast},
};
use tokio_util::sync::CancellationToken;

use self::execs::SimExec;

use crate::{client::Api, server::WORKER_TOKEN};

/// What it gives every bunker.
const SIM_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 2);

#[derive(Clone)]
pub struct SimWorker(Arc<Sim>);

pub struct Sim {
    pub capacity: Mutex<Capacity>,
    pub bunkers: Mutex<BTreeMap<BunkerId, WorkerBunkerState>>,
    pub start_delay_ms: AtomicU64,
    /// When its bunkers last worked.
    pub last_active_at: Mutex<Option<Timestamp>>,
    /// Why starts fail, if they do.
    pub start_fault: Mutex<Option<String>>,
    pub starts: AtomicUsize,
    pub running_commands: AtomicUsize,
    pub request_ids: Mutex<Vec<String>>,
    pub execs: Mutex<BTreeMap<ExecId, Arc<SimExec>>>,
    /// The root of every bunker.
    pub root: TempDir,
    /// File bodies that ended before their end.
    pub broken_puts: AtomicUsize,
    /// Bytes of file bodies that arrived.
    pub put_bytes: AtomicU64,
    /// Pieces of an endless file that were taken.
    pub given_pieces: AtomicUsize,
    /// Breaks a file off that is being read.
    pub file_breaks: Notify,
    /// Whether calls on files acted as root.
    pub acted_as_root: Mutex<Vec<bool>>,
    pub images: images::SimImages,
    pub snapshots: snapshots::SimSnapshots,
    /// Of the bunkers that were started.
    pub env_vars: Mutex<Vec<BTreeMap<String, String>>>,
    changes: broadcast::Sender<String>,
    base: Mutex<String>,
    id: Mutex<Option<WorkerId>>,
    link: Mutex<CancellationToken>,
}

impl std::ops::Deref for SimWorker {
    type Target = Sim;

    fn deref(&self) -> &Sim {
        &self.0
    }
}

pub fn busybox() -> ReadyImage {
    ReadyImage {
        name: "busybox".to_owned(),
        digest: "sha256:0123".to_owned(),
        size_bytes: 4096,
        default_cpu_millicores: 1000,
        default_memory_mb: 256,
        default_disk_mb: 64,
        config: Default::default(),
    }
}

impl SimWorker {
    pub fn new() -> Self {
        let capacity =
            Capacity { cpu_millicores: 4_000, memory_mb: 2_048, disk_mb: 10_000, gpu_count: 0 };
        Self(Arc::new(Sim {
            capacity: Mutex::new(capacity),
            bunkers: Mutex::default(),
            start_delay_ms: AtomicU64::new(0),
            last_active_at: Mutex::default(),
            start_fault: Mutex::default(),
            starts: AtomicUsize::new(0),
            running_commands: AtomicUsize::new(0),
            request_ids: Mutex::default(),
            execs: Mutex::default(),
            root: tempfile::tempdir().unwrap(),
            broken_puts: AtomicUsize::new(0),
            put_bytes: AtomicU64::new(0),
            given_pieces: AtomicUsize::new(0),
            file_breaks: Notify::new(),
            acted_as_root: Mutex::default(),
            images: images::SimImages::default(),
            snapshots: snapshots::SimSnapshots::default(),
            env_vars: Mutex::default(),
            changes: broadcast::Sender::new(64),
            base: Mutex::default(),
            id: Mutex::default(),
            link: Mutex::default(),
        }))
    }

    pub fn id(&self) -> WorkerId {
        self.0.id.lock().unwrap().unwrap()
    }

    pub fn held(&self) -> MutexGuard<'_, BTreeMap<BunkerId, WorkerBunkerState>> {
        self.0.bunkers.lock().unwrap()
    }

    /// Registers and links. An earlier link stays until the controller ends it.
    pub async fn link(&self, base: &str) {
        *self.0.base.lock().unwrap() = base.to_owned();
        let api = Api::new(base.to_owned(), WORKER_TOKEN.to_owned());
        let introduction = RegisterWorker {
            worker_id: *self.0.id.lock().unwrap(),
            name: "sim".to_owned(),
            version: "0".to_owned(),
            protocol_version: PROTOCOL_VERSION,
            engine: "sim".to_owned(),
            cpu_class: "any".to_owned(),
            capacity: *self.capacity.lock().unwrap(),
            gpu_type: Some("sim-gpu".to_owned()),
            images: vec![busybox()],
            image_cache: self.images.reports(),
            network_profiles: vec![
                NetworkProfile::Isolated,
                NetworkProfile::Registry,
                NetworkProfile::Transit,
            ],
        };
        let answer =
            api.post("/workers/register", &serde_json::to_value(introduction).unwrap()).await;
        let id: WorkerId = answer.data()["worker_id"].as_str().unwrap().parse().unwrap();
        *self.0.id.lock().unwrap() = Some(id);

        let stream = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = http::Request::get(format!("{API_PREFIX}/workers/{id}/link"))
            .header("host", "controller")
            .header("authorization", format!("Bearer {WORKER_TOKEN}"))
            .header("connection", "upgrade")
            .header("upgrade", LINK_PROTOCOL)
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        let cut = CancellationToken::new();
        *self.0.link.lock().unwrap() = cut.clone();
        let service = TowerToHyperService::new(self.routes());
        tokio::spawn(async move {
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                // As the real one: bodies that are not read must not stop other calls.
                .initial_connection_window_size((1 << 31) - 1)
                .serve_connection(upgraded, service);
            tokio::select! {
                _ = serving => {}
                () = cut.cancelled() => {}
            }
        });
    }

    /// Breaks the connection, as a killed process would.
    pub fn cut_link(&self) {
        self.0.link.lock().unwrap().cancel();
    }

    /// Ends a bunker as a crash would, and reports it at once.
    pub async fn crash(&self, base: &str, id: &str, reason: &str) {
        self.lose(id, reason);
        self.heartbeat(base).await;
    }

    /// Ends a bunker as a crash would; the next heartbeat reports it.
    pub fn lose(&self, id: &str, reason: &str) {
        let ended = WorkerBunkerState::Ended { reason: reason.to_owned() };
        self.held().insert(id.parse().unwrap(), ended);
    }

    pub async fn heartbeat(&self, base: &str) {
        self.send(base, self.write_heartbeat()).await;
    }

    /// A heartbeat of this moment, to be sent at any later one.
    pub fn write_heartbeat(&self) -> Heartbeat {
        Heartbeat {
            images: vec![busybox()],
            image_cache: self.images.reports(),
            bunkers: self.reports(),
        }
    }

    pub async fn send(&self, base: &str, beat: Heartbeat) {
        let api = Api::new(base.to_owned(), WORKER_TOKEN.to_owned());
        let path = format!("/workers/{}/heartbeat", self.id());
        let answer = api.post(&path, &serde_json::to_value(beat).unwrap()).await;
        answer.data();
    }

    fn reports(&self) -> Vec<BunkerReport> {
        self.held().iter().map(|(id, state)| self.report(*id, state.clone())).collect()
    }

    fn report(&self, id: BunkerId, state: WorkerBunkerState) -> BunkerReport {
        let last_active_at = *self.last_active_at.lock().unwrap();
        BunkerReport { id, state, started_at: None, last_active_at, ip_address: None }
    }

    fn routes(&self) -> Router {
        Router::new()
            .route("/bunkers", get(list))
            .route("/bunkers/{id}", get(show).put(start).delete(remove))
            .route("/bunkers/{id}/pause", post(pause))
            .route("/bunkers/{id}/resume", post(resume))
            .route("/bunkers/{id}/fork", post(fork))
            .route("/bunkers/{id}/metrics", get(metrics))
            .route("/bridges/{name}", put(bridge).delete(bridge))
            .route("/bunkers/{id}/exec", post(execs::start))
            .route("/bunkers/{id}/execs", get(execs::list))
            .route("/bunkers/{id}/execs/{exec_id}", get(execs::show).delete(execs::end))
            .route("/bunkers/{id}/execs/{exec_id}/attach", post(execs::attach))
            .route("/bunkers/{id}/execs/{exec_id}/input", post(execs::input))
            .route("/bunkers/{id}/execs/{exec_id}/signal", post(execs::signal))
            .route("/bunkers/{id}/execs/{exec_id}/resize", post(execs::resize))
            .merge(files::routes())
            .merge(images::routes())
            .merge(snapshots::routes())
            .with_state(self.clone())
    }
}

async fn list(State(worker): State<SimWorker>) -> Json<Vec<BunkerReport>> {
    Json(worker.reports())
}

async fn show(State(worker): State<SimWorker>, Path(id): Path<BunkerId>) -> Response {
    let state = worker.held().get(&id).cloned();
    match state {
        Some(state) => Json(worker.report(id, state)).into_response(),
        None => refusal(ErrorCode::NotFound, "no such bunker").into_response(),
    }
}

async fn pause(
    state: State<SimWorker>,
    path: Path<BunkerId>,
    Json(limit): Json<PauseBunker>,
) -> Response {
    let active_at = *state.last_active_at.lock().unwrap();
    if limit.idle_since.is_some_and(|since| active_at > Some(since)) {
        return refusal(ErrorCode::BunkerBusy, "it is at work again").into_response();
    }
    swing(state, path, WorkerBunkerState::Paused)
}

/// Every child becomes what a started bunker becomes.
async fn fork(State(worker): State<SimWorker>, Json(ask): Json<ForkBunker>) -> Json<ForkedBunker> {
    let fault = worker.start_fault.lock().unwrap().clone();
    let children = ask.children.into_iter().map(|id| {
        let state = match fault.clone() {
            Some(reason) => WorkerBunkerState::Ended { reason },
            None => WorkerBunkerState::Running,
        };
        worker.held().insert(id, state.clone());
        worker.report(id, state)
    });
    Json(ForkedBunker { stood_still_us: 7, children: children.collect() })
}

async fn resume(state: State<SimWorker>, path: Path<BunkerId>) -> Response {
    swing(state, path, WorkerBunkerState::Running)
}

fn swing(
    State(worker): State<SimWorker>,
    Path(id): Path<BunkerId>,
    to: WorkerBunkerState,
) -> Response {
    match worker.held().get_mut(&id) {
        Some(state) => {
            *state = to;
            StatusCode::NO_CONTENT.into_response()
        }
        None => refusal(ErrorCode::NotFound, "no such bunker").into_response(),
    }
}

/// Every bridge can be made and removed.
async fn bridge() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn metrics() -> Json<BunkerMetrics> {
    Json(BunkerMetrics {
        cpu_time_ms: 1,
        memory_bytes: 2,
        disk_bytes: 3,
        execs_running: 4,
        network: None,
        last_active_at: Timestamp::UNIX_EPOCH,
    })
}

async fn start(
    State(worker): State<SimWorker>,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    Json(spec): Json<StartBunker>,
) -> Response {
    let mut has = worker.images.reports().into_iter();
    let has_it = has.any(|report| spec.image == images::digest_of(report.image_id));
    assert!(has_it || spec.image == busybox().digest, "{}", spec.image);
    worker.env_vars.lock().unwrap().push(spec.env_vars);
    worker.starts.fetch_add(1, Ordering::Relaxed);
    let request_id = headers["x-request-id"].to_str().unwrap().to_owned();
    worker.request_ids.lock().unwrap().push(request_id);
    worker.held().insert(id, WorkerBunkerState::Starting);
    tokio::time::sleep(Duration::from_millis(worker.start_delay_ms.load(Ordering::Relaxed))).await;
    let fault = worker.start_fault.lock().unwrap().clone();
    if let Some(reason) = fault {
        worker.held().insert(id, WorkerBunkerState::Ended { reason: reason.clone() });
        let error = ErrorBody::new(ErrorCode::ProvisioningFailed, reason);
        return (StatusCode::BAD_GATEWAY, Json(error)).into_response();
    }
    if worker.held().insert(id, WorkerBunkerState::Running).is_none() {
        worker.held().remove(&id);
        let error = ErrorBody::new(ErrorCode::ProvisioningFailed, "it was ended meanwhile");
        return (StatusCode::BAD_GATEWAY, Json(error)).into_response();
    }
    let started_at = Some(Timestamp::now());
    let (state, ip_address) = (WorkerBunkerState::Running, Some(SIM_ADDRESS.into()));
    Json(BunkerReport { id, state, started_at, last_active_at: None, ip_address }).into_response()
}

async fn remove(State(worker): State<SimWorker>, Path(id): Path<BunkerId>) -> StatusCode {
    worker.held().remove(&id);
    StatusCode::NO_CONTENT
}

/// An error as workers send it.
struct Refused(ErrorBody);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0.code.http_status(), Json(self.0)).into_response()
    }
}

fn refusal(code: ErrorCode, message: impl Into<String>) -> Refused {
    Refused(ErrorBody::new(code, message))
}

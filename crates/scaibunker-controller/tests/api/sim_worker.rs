//! A worker without microVMs that speaks the real protocol over a real link.
//!
//! Its commands: `echo TEXT…`, `cat`, `bytes N` (N bytes of `x`), `hex DIGITS…` (a piece each),
//! `exit CODE`, `killed`, `sleep` (until it is cancelled), `die` (the bunker ends), `stop answering` and `hang up` (the stream ends or
//! breaks).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use jiff::Timestamp;
use scaibunker_api::{
    API_PREFIX,
    error::{ErrorBody, ErrorCode},
    exec::Command,
    ids::{BunkerId, WorkerId},
    worker::{
        BunkerReport, Capacity, Heartbeat, LINK_PROTOCOL, PROTOCOL_VERSION, ReadyImage,
        RegisterWorker, StartBunker, StartExec, WorkerBunkerState,
    },
};
use scaibunker_guest_protocol::{
    exec::{Exit, Started},
    frame::{Frame, FrameDecoder, FrameKind},
};
use serde_json::Value;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;

use crate::{client::Api, server::WORKER_TOKEN};

#[derive(Clone)]
pub struct SimWorker(Arc<Sim>);

pub struct Sim {
    pub capacity: Mutex<Capacity>,
    pub bunkers: Mutex<BTreeMap<BunkerId, WorkerBunkerState>>,
    pub start_delay_ms: AtomicU64,
    /// Why starts fail, if they do.
    pub start_fault: Mutex<Option<String>>,
    pub starts: AtomicUsize,
    pub running_commands: AtomicUsize,
    pub request_ids: Mutex<Vec<String>>,
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
    }
}

impl SimWorker {
    pub fn new() -> Self {
        let capacity = Capacity { cpu_millicores: 4_000, memory_mb: 2_048, disk_mb: 10_000 };
        Self(Arc::new(Sim {
            capacity: Mutex::new(capacity),
            bunkers: Mutex::default(),
            start_delay_ms: AtomicU64::new(0),
            start_fault: Mutex::default(),
            starts: AtomicUsize::new(0),
            running_commands: AtomicUsize::new(0),
            request_ids: Mutex::default(),
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
        let api = Api::new(base.to_owned(), WORKER_TOKEN.to_owned());
        let introduction = RegisterWorker {
            worker_id: *self.0.id.lock().unwrap(),
            name: "sim".to_owned(),
            version: "0".to_owned(),
            protocol_version: PROTOCOL_VERSION,
            engine: "sim".to_owned(),
            capacity: *self.capacity.lock().unwrap(),
            images: vec![busybox()],
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
        let ended = WorkerBunkerState::Ended { reason: reason.to_owned() };
        self.held().insert(id.parse().unwrap(), ended);
        self.heartbeat(base).await;
    }

    pub async fn heartbeat(&self, base: &str) {
        let beat = Heartbeat { images: vec![busybox()], bunkers: self.reports() };
        let api = Api::new(base.to_owned(), WORKER_TOKEN.to_owned());
        let path = format!("/workers/{}/heartbeat", self.id());
        let answer = api.post(&path, &serde_json::to_value(beat).unwrap()).await;
        assert_eq!(answer.data(), &Value::Object(Default::default()));
    }

    fn reports(&self) -> Vec<BunkerReport> {
        let started_at = None;
        let report = |(id, state): (&BunkerId, &WorkerBunkerState)| BunkerReport {
            id: *id,
            state: state.clone(),
            started_at,
        };
        self.held().iter().map(report).collect()
    }

    fn routes(&self) -> Router {
        Router::new()
            .route("/bunkers", get(list))
            .route("/bunkers/{id}", axum::routing::put(start).delete(remove))
            .route("/bunkers/{id}/exec", post(exec))
            .with_state(self.clone())
    }
}

async fn list(State(worker): State<SimWorker>) -> Json<Vec<BunkerReport>> {
    Json(worker.reports())
}

async fn start(
    State(worker): State<SimWorker>,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    Json(spec): Json<StartBunker>,
) -> Response {
    assert_eq!(spec.image, "busybox");
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
    Json(BunkerReport { id, state: WorkerBunkerState::Running, started_at }).into_response()
}

async fn remove(State(worker): State<SimWorker>, Path(id): Path<BunkerId>) -> StatusCode {
    worker.held().remove(&id);
    StatusCode::NO_CONTENT
}

/// Counts a command for as long as it is there.
struct Running(SimWorker);

impl Running {
    fn new(worker: SimWorker) -> Self {
        worker.running_commands.fetch_add(1, Ordering::Relaxed);
        Self(worker)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running_commands.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn exec(
    State(worker): State<SimWorker>,
    Path(id): Path<BunkerId>,
    request: Request,
) -> Response {
    if worker.held().get(&id) != Some(&WorkerBunkerState::Running) {
        let error = ErrorBody::new(ErrorCode::BunkerNotRunning, "it does not run here");
        return (StatusCode::CONFLICT, Json(error)).into_response();
    }
    let mut decoder = FrameDecoder::default();
    decoder.push(&request.into_body().collect().await.unwrap().to_bytes());
    let start: StartExec = decoder.next_frame().unwrap().unwrap().parse().unwrap();
    let mut stdin = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        stdin.extend_from_slice(&frame.payload);
    }
    let (output, frames) = mpsc::channel(4);
    let running = Running::new(worker.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = run(&worker, id, start, stdin, &output) => {}
            () = output.closed() => {}
        }
        drop(running);
    });
    // A `None` stands for a broken connection.
    let body = ReceiverStream::new(frames).map(|frame: Option<Frame>| match frame {
        Some(frame) => Ok::<_, std::io::Error>(frame.encode()),
        None => Err(std::io::Error::other("hung up")),
    });
    Body::from_stream(body).into_response()
}

async fn run(
    worker: &SimWorker,
    id: BunkerId,
    start: StartExec,
    stdin: Vec<u8>,
    output: &mpsc::Sender<Option<Frame>>,
) -> Result<(), mpsc::error::SendError<Option<Frame>>> {
    let Some(Command::Argv(argv)) = start.command else { panic!("this worker has no shell") };
    let out = |bytes: Vec<u8>| Some(Frame::data(FrameKind::Stdout, bytes.into()));
    let started = Frame::json(FrameKind::Started, &Started { pid: 42 }).unwrap();
    output.send(Some(started)).await?;
    let mut exit =
        Exit { exit_code: 0, signal: None, timed_out: false, oom_killed: false, duration_ms: 1 };
    match argv[0].as_str() {
        "echo" => {
            output.send(out(format!("{}\n", argv[1..].join(" ")).into_bytes())).await?;
            let said = Frame::data(FrameKind::Stderr, Bytes::from_static(b"said\n"));
            output.send(Some(said)).await?;
        }
        "cat" => {
            for piece in stdin.chunks(60_000) {
                output.send(out(piece.to_vec())).await?;
            }
        }
        "bytes" => {
            let mut left: usize = argv[1].parse().unwrap();
            while left > 0 {
                let piece = left.min(64 * 1024);
                output.send(out(vec![b'x'; piece])).await?;
                left -= piece;
            }
        }
        "hex" => {
            for digits in &argv[1..] {
                let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
                output.send(out((0..digits.len()).step_by(2).map(byte).collect())).await?;
            }
        }
        "exit" => exit.exit_code = argv[1].parse().unwrap(),
        "killed" => {
            exit.exit_code = 137;
            exit.signal = Some(9);
        }
        "sleep" => match std::future::pending::<Infallible>().await {},
        "die" => {
            worker.held().insert(id, WorkerBunkerState::Ended { reason: "died".to_owned() });
            let error = ErrorBody::new(ErrorCode::BunkerLost, "the microVM died");
            return output.send(Some(Frame::json(FrameKind::Error, &error).unwrap())).await;
        }
        "stop answering" => return Ok(()),
        "hang up" => return output.send(None).await,
        other => panic!("this worker has no {other}"),
    }
    output.send(Some(Frame::json(FrameKind::Exit, &exit).unwrap())).await
}

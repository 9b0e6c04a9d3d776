//! The link's routes against a double of a guest.

mod commands;
mod endings;
mod files;
mod pauses;
mod shells;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{Command, ExecMode, OutputGap},
    ids::{BunkerId, ExecId},
    worker::{ExecEnd, ExecReport, ExecStarted, StartExec},
};
use scaibunker_guest_protocol::{
    frame::{Frame, FrameKind},
    frame_reader::FrameReader,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::router;
use crate::{
    assets::BakedImage,
    bunker_state::Guest,
    engine::{Engine, EngineError, MicroVm, Shape, Template},
    guest_double::GuestDouble,
    images::Images,
    jail::JailedProcess,
    pool::Pool,
    scratch::{ScratchDisk, ScratchDisks},
    seat::{Seat, UidSlots},
    snapshots::Snapshots,
    storage::StorageClient,
    supervisor::Supervisor,
    test_server::{TOKEN, storage_proxy},
    vm::Host,
    vm_home::{Claim, VmHome},
};

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// Makes no microVM.
struct NoEngine;

#[async_trait]
impl Engine for NoEngine {
    fn cpu_class(&self) -> String {
        "none".to_owned()
    }

    fn describe(&self) -> String {
        "none".to_owned()
    }

    async fn boot(
        &self,
        _: &Shape,
        _: &BakedImage,
        _: &mut Seat,
        _: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        Err(EngineError::Protocol("no engine".to_owned()))
    }

    async fn spawn_clone(
        &self,
        _: &Arc<Template>,
        _: &mut Seat,
        _: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        Err(EngineError::Protocol("no engine".to_owned()))
    }

    async fn adopt(&self, _: &VmHome, _: JailedProcess) -> Result<Box<dyn MicroVm>, EngineError> {
        Err(EngineError::Protocol("no engine".to_owned()))
    }
}

/// The routes of a worker with one running bunker.
struct Lab {
    id: BunkerId,
    guest: Arc<GuestDouble>,
    supervisor: Arc<Supervisor>,
    routes: Router,
    dir: tempfile::TempDir,
}

fn supervisor(dir: &Path) -> Arc<Supervisor> {
    let host = Host {
        engine: Arc::new(NoEngine),
        disks: ScratchDisks::new(dir.join("disks")).unwrap(),
        vms_dir: dir.join("vms"),
        cgroups: None,
        uid_slots: Arc::new(UidSlots::default()),
        gpus: Arc::default(),
        networks: None,
    };
    let pool = Pool::new(Arc::new(host), Images::none(dir), 0);
    Supervisor::new(pool, CancellationToken::new(), false)
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects");
        std::fs::create_dir_all(&objects).unwrap();
        let url = storage_proxy(&objects).await;
        Self::with_storage(dir, &url).await
    }

    async fn with_storage(dir: tempfile::TempDir, url: &str) -> Self {
        for name in ["disks", "vms", "home"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let (id, (guest, channel)) = (BunkerId::generate(), GuestDouble::start().await);
        let claim = Claim {
            bunker_id: id,
            image: String::new(),
            workdir: String::new(),
            image_user: "bunker".to_owned(),
            env: BTreeMap::new(),
            started_at: jiff::Timestamp::UNIX_EPOCH,
            network: scaibunker_api::worker::StartNetwork::default(),
            disk_mb: 64,
        };
        let supervisor = supervisor(dir.path());
        let file_calls = Arc::new(Semaphore::new(64));
        let claim = Arc::new(claim);
        let running = Guest { channel, claim, file_calls, activity: Arc::default() };
        supervisor.insert_running(id, running, &dir.path().join("home"));
        let storage = Arc::new(StorageClient::new(url, TOKEN).unwrap());
        let routes = router(
            Arc::clone(&supervisor),
            Arc::clone(&storage),
            Images::none(dir.path()),
            Snapshots::new(storage, dir.path().to_owned()),
        );
        Self { id, guest, supervisor, routes, dir }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Body,
    ) -> Response<Body> {
        let mut request =
            Request::builder().method(method).uri(format!("/bunkers/{}{path}", self.id));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answered = self.routes.clone().oneshot(request.body(body).unwrap());
        timeout(LIMIT * 4, answered).await.unwrap().unwrap()
    }

    /// Starts a command whose input is all there from the start.
    async fn exec(&self, start: &StartExec, input: &[Frame]) -> Frames {
        let spec = Frame::json(FrameKind::Spec, start).unwrap().encode();
        let wire = [vec![spec], input.iter().map(Frame::encode).collect()].concat().concat();
        self.frames("/exec", Body::from(wire)).await
    }

    /// Starts a command whose input stays open.
    async fn exec_open(&self, start: &StartExec) -> (mpsc::Sender<Bytes>, Frames) {
        let (sender, body) = mpsc::channel(4);
        let spec = Frame::json(FrameKind::Spec, start).unwrap().encode();
        sender.send(spec).await.unwrap();
        (sender, self.frames("/exec", streamed(body)).await)
    }

    async fn attach(&self, id: ExecId, query: &str) -> Frames {
        self.frames(&format!("/execs/{id}/attach{query}"), Body::empty()).await
    }

    async fn attach_open(&self, id: ExecId) -> (mpsc::Sender<Bytes>, Frames) {
        let (sender, body) = mpsc::channel(4);
        (sender, self.frames(&format!("/execs/{id}/attach"), streamed(body)).await)
    }

    async fn frames(&self, path: &str, body: Body) -> Frames {
        let response = self.call(Method::POST, path, &[], body).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Frames(FrameReader::new(response.into_body()))
    }

    /// The error of a call.
    async fn refused(&self, method: Method, path: &str, body: impl Into<Body>) -> ErrorCode {
        let response = self.call(method, path, &[], body.into()).await;
        error_of(response).await.code
    }

    async fn report(&self, id: ExecId) -> ExecReport {
        json(self.call(Method::GET, &format!("/execs/{id}"), &[], Body::empty()).await).await
    }

    /// Waits until the worker has all that the command said.
    async fn until_ended(&self, id: ExecId) {
        let exec = self.supervisor.execs(self.id).unwrap().get(id).unwrap();
        until(|| exec.has_ended()).await;
    }

    async fn reports(&self) -> Vec<ExecReport> {
        json(self.call(Method::GET, "/execs", &[], Body::empty()).await).await
    }

    async fn input(&self, id: ExecId, frames: &[Frame]) -> Response<Body> {
        let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode()).collect();
        self.call(Method::POST, &format!("/execs/{id}/input"), &[], wire.into()).await
    }
}

fn streamed(body: mpsc::Receiver<Bytes>) -> Body {
    Body::from_stream(ReceiverStream::new(body).map(Ok::<_, std::io::Error>))
}

/// A body that breaks after `pieces`.
fn breaking(pieces: Vec<Bytes>) -> Body {
    let end = stream::once(std::future::ready(Err(std::io::Error::other("it broke"))));
    Body::from_stream(stream::iter(pieces).map(Ok).chain(end))
}

async fn json<T: DeserializeOwned>(response: Response<Body>) -> T {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{status} {body:?}: {error}"))
}

async fn error_of(response: Response<Body>) -> ErrorBody {
    let status = response.status();
    let error: ErrorBody = json(response).await;
    assert_eq!(status, error.code.http_status());
    error
}

fn start(mode: ExecMode, argv: &[&str]) -> StartExec {
    let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
    StartExec {
        exec_id: ExecId::generate(),
        mode,
        command: Some(Command::Argv(argv)),
        cwd: None,
        env: BTreeMap::new(),
        user: None,
        timeout_s: Some(60),
        terminal: None,
        keep_output: false,
    }
}

fn stdin(text: &str) -> Frame {
    Frame::data(FrameKind::Stdin, text.to_owned().into())
}

fn stdin_end() -> Frame {
    Frame::data(FrameKind::StdinEnd, Bytes::new())
}

/// The frames of one answer.
struct Frames(FrameReader<Body>);

impl Frames {
    async fn next(&mut self) -> Option<Frame> {
        timeout(LIMIT * 4, self.0.next()).await.unwrap().unwrap()
    }

    async fn started(&mut self) -> ExecStarted {
        let frame = self.next().await.unwrap();
        assert_eq!(frame.kind, FrameKind::Started, "{frame:?}");
        frame.parse().unwrap()
    }

    async fn output(&mut self) -> String {
        let frame = self.next().await.unwrap();
        assert!(matches!(frame.kind, FrameKind::Stdout | FrameKind::Stderr), "{frame:?}");
        String::from_utf8(frame.payload.to_vec()).unwrap()
    }

    /// Reads on to the end: the bytes of output, what the gaps named, and the last frame.
    async fn rest(&mut self) -> (usize, Vec<u64>, Frame) {
        let (mut bytes, mut gaps) = (0, Vec::new());
        loop {
            let frame = self.next().await.unwrap();
            match frame.kind {
                FrameKind::Stdout | FrameKind::Stderr => bytes += frame.payload.len(),
                FrameKind::Gap => gaps.push(frame.parse::<OutputGap>().unwrap().next_seq),
                FrameKind::Started => {}
                _ => {
                    assert_eq!(self.next().await, None, "something follows {frame:?}");
                    return (bytes, gaps, frame);
                }
            }
        }
    }

    async fn exit(&mut self) -> ExecEnd {
        let (_, _, last) = self.rest().await;
        assert_eq!(last.kind, FrameKind::Exit, "{last:?}");
        last.parse().unwrap()
    }

    async fn error(&mut self) -> ErrorCode {
        let (_, _, last) = self.rest().await;
        assert_eq!(last.kind, FrameKind::Error, "{last:?}");
        last.parse::<ErrorBody>().unwrap().code
    }
}

/// Waits until `is_so`.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LIMIT, waited).await.unwrap();
}

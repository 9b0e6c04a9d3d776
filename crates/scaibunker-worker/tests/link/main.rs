//! The link's routes on a real microVM: the real agent behind what the controller calls.
//!
//! Needs the guest agent, QEMU and Debian's packages: `./scripts/test` sees to all of them.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod fork;
#[path = "../lab/mod.rs"]
mod lab;
mod lifecycle;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use scaibunker_api::{
    API_PREFIX,
    error::{ErrorBody, ErrorCode},
    exec::{Command, ExecMode},
    ids::{BunkerId, ExecId},
    worker::{ExecEnd, ResizeTerminal, StartBunker, StartExec},
};
use scaibunker_guest_protocol::{
    files::CALL_HEADER,
    frame::{Frame, FrameKind},
    frame_reader::FrameReader,
};
use scaibunker_storage::{Objects, SigningSecret, WorkerToken};
use scaibunker_worker::{
    engine::Shape,
    link,
    snapshots::Snapshots,
    storage::StorageClient,
    supervisor::{Origin, Supervisor},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const TOKEN: &str = "secret";

struct Worker {
    id: BunkerId,
    routes: Router,
    supervisor: Arc<Supervisor>,
    storage: Arc<StorageClient>,
    stop: CancellationToken,
    lab: lab::Lab,
}

impl Worker {
    /// A worker with a storage proxy and one running bunker.
    async fn start() -> Self {
        Self::start_keeping(false).await
    }

    /// One that may leave its bunker running when it stops.
    async fn start_keeping(keep_bunkers: bool) -> Self {
        let lab = lab::lab(0).await;
        let objects =
            Objects::directory(&lab.dir.path().join("objects"), SigningSecret::new("signing"));
        let proxy = scaibunker_storage::router(objects.unwrap(), WorkerToken::new(TOKEN));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, Router::new().nest(API_PREFIX, proxy)).into_future());

        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(Arc::clone(&lab.pool), stop.clone(), keep_bunkers);
        supervisor.follow_activity();
        let id = BunkerId::generate();
        supervisor.start(id, spec(&lab.shape), Origin::Image, "req_test".to_owned()).await.unwrap();
        let storage = Arc::new(StorageClient::new(&url, TOKEN).unwrap());
        let routes = link::router(
            Arc::clone(&supervisor),
            Arc::clone(&storage),
            lab.pool.images().clone(),
            Snapshots::new(Arc::clone(&storage), lab.pool.host().vms_dir.clone()),
        );
        Self { id, routes, supervisor, storage, stop, lab }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        call: Option<&Value>,
        body: impl Into<Body>,
    ) -> Response<Body> {
        let uri = format!("/bunkers/{}{path}", self.id);
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(call) = call {
            request = request.header(CALL_HEADER, call.to_string());
        }
        self.routes.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    async fn exec(&self, start: &StartExec, input: Body) -> FrameReader<Body> {
        let spec = Frame::json(FrameKind::Spec, start).unwrap().encode();
        let first = futures_util::stream::once(async { Ok::<_, axum::Error>(spec) });
        let body = futures_util::StreamExt::chain(first, input.into_data_stream());
        let response = self.call(Method::POST, "/exec", None, Body::from_stream(body)).await;
        assert_eq!(response.status(), StatusCode::OK);
        FrameReader::new(response.into_body())
    }

    async fn sh(&self, line: &str) -> (String, ExecEnd) {
        read(self.exec(&sh(line), Body::empty()).await).await
    }

    /// How many processes sleep.
    async fn sleeping(&self) -> String {
        let (count, _) = self.sh("grep -lx sleep /proc/[0-9]*/comm 2>/dev/null | wc -l").await;
        count.trim().to_owned()
    }

    async fn until_none_sleeps(&self) {
        let counted = async { while self.sleeping().await != "0" {} };
        timeout(Duration::from_secs(20), counted).await.unwrap();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.supervisor.finish().await;
        drop(self.lab);
    }
}

fn spec(shape: &Shape) -> StartBunker {
    StartBunker {
        image: shape.image.clone(),
        cpu_millicores: 1000,
        memory_mb: shape.memory_mb,
        disk_mb: shape.disk_mb,
        gpu_count: 0,
        env_vars: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        network: scaibunker_api::worker::StartNetwork::default(),
    }
}

fn sh(line: &str) -> StartExec {
    StartExec {
        exec_id: ExecId::generate(),
        mode: ExecMode::Attached,
        command: Some(Command::Shell(line.to_owned())),
        cwd: None,
        env: BTreeMap::new(),
        user: None,
        timeout_s: Some(60),
        terminal: None,
        keep_output: false,
    }
}

fn stdin(text: &str) -> Bytes {
    Frame::data(FrameKind::Stdin, text.to_owned().into()).encode()
}

async fn next(frames: &mut FrameReader<Body>) -> Frame {
    timeout(Duration::from_secs(60), frames.next()).await.unwrap().unwrap().unwrap()
}

async fn read(mut frames: FrameReader<Body>) -> (String, ExecEnd) {
    let mut text = String::new();
    loop {
        let frame = next(&mut frames).await;
        match frame.kind {
            FrameKind::Exit => return (text, frame.parse().unwrap()),
            FrameKind::Error => panic!("{:?}", frame.payload),
            FrameKind::Started => {}
            _ => text.push_str(&String::from_utf8_lossy(&frame.payload)),
        }
    }
}

async fn json(response: Response<Body>) -> Value {
    let (status, body) = (response.status(), response.into_body().collect().await.unwrap());
    serde_json::from_slice(&body.to_bytes()).unwrap_or_else(|error| panic!("{status}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_are_fed_signalled_and_ended() {
    let worker = Worker::start().await;
    let (text, end) = worker.sh("echo $GREETING; echo oops >&2; exit 3").await;
    assert_eq!((text.len(), end.exit_code, end.stdout_bytes, end.stderr_bytes), (11, 3, 6, 5));

    let input = [stdin("a"), stdin("b")].concat();
    let fed = worker.exec(&sh("cat"), Body::from(input)).await;
    assert_eq!(read(fed).await.0, "ab");

    let detached = StartExec { mode: ExecMode::Detached, ..sh("cat; exec sleep 1000") };
    let path = format!("/execs/{}", detached.exec_id);
    let mut frames = worker.exec(&detached, Body::empty()).await;
    assert_eq!(next(&mut frames).await.kind, FrameKind::Started);
    drop(frames);
    let end = Frame::data(FrameKind::StdinEnd, Bytes::new()).encode();
    let body = [stdin("later"), end].concat();
    let fed = worker.call(Method::POST, &format!("{path}/input"), None, body).await;
    assert_eq!(fed.status(), StatusCode::NO_CONTENT);
    let joined = worker.call(Method::POST, &format!("{path}/attach"), None, "").await;
    let mut joined = FrameReader::new(joined.into_body());
    next(&mut joined).await;
    assert_eq!(next(&mut joined).await.payload, "later");
    let body = json!({ "signal": 15 }).to_string();
    let told = worker.call(Method::POST, &format!("{path}/signal"), None, body).await;
    assert_eq!(told.status(), StatusCode::NO_CONTENT);
    let (_, end) = read(joined).await;
    assert_eq!((end.exit_code, end.signal), (143, Some(15)));

    let gone = worker.exec(&sh("exec sleep 1000"), Body::empty()).await;
    assert_eq!(worker.sleeping().await, "1");
    drop(gone);
    worker.until_none_sleeps().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_input_nobody_reads_ends_with_its_caller() {
    let worker = Worker::start().await;
    let flood = futures_util::stream::repeat_with(|| {
        Ok::<_, axum::Error>(Frame::data(FrameKind::Stdin, vec![b'x'; 32 * 1024].into()).encode())
    });
    let frames = worker.exec(&sh("exec sleep 1000"), Body::from_stream(flood)).await;
    assert_eq!(worker.sleeping().await, "1");
    drop(frames);
    worker.until_none_sleeps().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_resized_taken_over_and_left() {
    let worker = Worker::start().await;
    let terminal = Some(ResizeTerminal { cols: 80, rows: 24 });
    let shell = StartExec { mode: ExecMode::Shell, command: None, terminal, ..sh("") };
    let path = format!("/execs/{}", shell.exec_id);
    let mut first = worker.exec(&shell, Body::from(stdin("stty size\n"))).await;
    let mut text = String::new();
    while !text.contains("24 80") {
        text.push_str(&String::from_utf8_lossy(&next(&mut first).await.payload));
    }
    let body = json!({ "cols": 100, "rows": 30 }).to_string();
    let told = worker.call(Method::POST, &format!("{path}/resize"), None, body).await;
    assert_eq!(told.status(), StatusCode::NO_CONTENT);
    let body = stdin("stty size; exit 7\n");
    let second = worker.call(Method::POST, &format!("{path}/attach"), None, body).await;
    let (text, end) = read(FrameReader::new(second.into_body())).await;
    assert!(text.contains("24 80") && text.contains("30 100"), "{text}");
    assert_eq!(end.exit_code, 7);
    loop {
        let frame = next(&mut first).await;
        if frame.kind == FrameKind::Error {
            let error: ErrorBody = frame.parse().unwrap();
            break assert_eq!(error.code, ErrorCode::ShellTakenOver);
        }
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out() {
    let worker = Worker::start().await;
    let on = |path: &str| json!({ "path": path, "as_root": false, "user": null });
    let write = |path: &str| json!({ "path": path, "mode": null, "uid": null, "gid": null, "as_root": false, "user": null });
    let content = vec![b'z'; 3_000_000];
    let put = worker.call(Method::PUT, "/files", Some(&write("/tmp/big")), content).await;
    assert_eq!(json(put).await["size_bytes"], 3_000_000);
    let got = worker.call(Method::GET, "/files", Some(&on("/tmp/big")), "").await;
    assert_eq!(got.headers()["content-length"], "3000000");
    assert!(got.headers().contains_key("etag"));
    assert_eq!(got.into_body().collect().await.unwrap().to_bytes().len(), 3_000_000);
    let private = StartExec { user: Some("root".into()), ..sh("umask 077; echo > /private") };
    read(worker.exec(&private, Body::empty()).await).await;
    for (path, code) in [
        ("/missing", ErrorCode::FileNotFound),
        ("/tmp", ErrorCode::IsADirectory),
        ("/private", ErrorCode::FileAccessDenied),
    ] {
        let refused = worker.call(Method::GET, "/files", Some(&on(path)), "").await;
        assert_eq!(json(refused).await["code"], code.as_str(), "{path}");
    }

    let key = format!("files/{}/upload", worker.id);
    let object = worker.lab.dir.path().join("objects/scaibunker").join(&key);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    let content: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(object, content).unwrap();
    let body = json!({ "key": key }).to_string();
    let put = worker.call(Method::POST, "/files/commit", Some(&write("/tmp/up")), body).await;
    assert_eq!(json(put).await["size_bytes"], 20_000_000);
    let (line, _) = worker.sh("tail -c 3 /tmp/up | od -An -tu1; rm /tmp/up").await;
    let last: Vec<u32> = (19_999_997..20_000_000).map(|n| n % 251).collect();
    let said: Vec<u32> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!(said, last);
    worker.stop().await;
}

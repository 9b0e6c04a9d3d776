//! The link's routes on a real microVM: the real agent behind what the controller calls.
//!
//! Needs the guest agent, QEMU and Debian's packages: `./scripts/test` sees to all of them.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

#[path="lab/mod.rs"] mod lab;

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
use scaibunker_worker::{link, storage::StorageClient, supervisor::Supervisor};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const TOKEN: &str = "secret";

struct Worker {
    id: BunkerId,
    routes: Router,
    supervisor: Arc<Supervisor>,
    stop: CancellationToken,
    lab: lab::Lab,
}

impl Worker {
    /// A worker with a storage proxy and one running bunker.
    async fn start() -> Self {
        let lab = lab::lab().await;
        let objects =
            Objects::directory(&lab.dir.path().join("objects"), SigningSecret::new("signing"));
        let proxy = scaibunker_storage::router(objects.unwrap(), WorkerToken::new(TOKEN));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, Router::new().nest(API_PREFIX, proxy)).into_future());

        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(Arc::clone(&lab.pool), stop.clone(), false);
        let id = BunkerId::generate();
        let spec = StartBunker {
            image: lab.shape.image.clone(),
            cpu_millicores: 1000,
            memory_mb: lab.shape.memory_mb,
            disk_mb: lab.shape.disk_mb,
            env_vars: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        };
        supervisor.start(id, spec, "req_test".to_owned()).await.unwrap();
        let storage = Arc::new(StorageClient::new(&url, TOKEN).unwrap());
        let routes = link::router(Arc::clone(&supervisor), storage);
        Self { id, routes, supervisor, stop, lab }
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
async fn perf() {
    let worker = Worker::start().await;
    let mut t = StartExec { command: Some(Command::Argv(vec!["/bin/true".into()])), ..sh("") };
    let mut took = Vec::new();
    let end = Frame::data(FrameKind::StdinEnd, Bytes::new()).encode();
    for _ in 0..200 {
        t.exec_id = ExecId::generate();
        let spec = Frame::json(FrameKind::Spec, &t).unwrap().encode();
        let b = std::time::Instant::now();
        let r = worker.call(Method::POST, "/exec", None, Body::from([spec, end.clone()].concat())).await;
        r.into_body().collect().await.unwrap();
        took.push(b.elapsed());
    }
    took.sort();
    eprintln!("exec true p50 {:?} p95 {:?}", took[100], took[190]);
    for line in ["head -c 300000000 /dev/zero", "dd if=/dev/zero bs=1M count=300 2>/dev/null"] {
        for keep in [false, true] {
            let b = std::time::Instant::now();
            let s = StartExec { keep_output: keep, ..sh(line) };
            let spec = Frame::json(FrameKind::Spec, &s).unwrap().encode();
            let r = worker.call(Method::POST, "/exec", None, Body::from([spec, end.clone()].concat())).await;
            let mut body = r.into_body();
            let mut n = 0;
            while let Some(f) = body.frame().await { n += f.unwrap().into_data().unwrap().len(); }
            eprintln!("{line} keep={keep}: {} MB/s", n as f64 / 1e6 / b.elapsed().as_secs_f64());
        }
    }
    let write = |path: &str| json!({ "path": path, "mode": null, "uid": null, "gid": null, "as_root": false, "user": null });
    for _ in 0..3 {
        let b = std::time::Instant::now();
        let put = worker.call(Method::PUT, "/files", Some(&write("/tmp/big")), vec![b'z'; 8 << 20]).await;
        json(put).await;
        eprintln!("put 8 MiB {:?}", b.elapsed());
        let b = std::time::Instant::now();
        let on = json!({ "path": "/tmp/big", "as_root": false, "user": null });
        let got = worker.call(Method::GET, "/files", Some(&on), "").await;
        got.into_body().collect().await.unwrap();
        eprintln!("get 8 MiB {:?}", b.elapsed());
    }
    let key = format!("files/{}/upload", worker.id);
    let object = worker.lab.dir.path().join("objects/scaibunker").join(&key);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(object, vec![7u8; 256 << 20]).unwrap();
    for _ in 0..3 {
        let body = json!({ "key": key }).to_string();
        let b = std::time::Instant::now();
        let put = worker.call(Method::POST, "/files/commit", Some(&write("/tmp/up")), body).await;
        eprintln!("{} {} MB/s", json(put).await, 268.4 / b.elapsed().as_secs_f64());
    }
    eprintln!("{}", worker.sh("df /tmp; grep VmHWM /proc/self/status").await.0);
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    eprintln!("{}", st.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("RssAnon")).collect::<Vec<_>>().join(" "));
    worker.stop().await;
}

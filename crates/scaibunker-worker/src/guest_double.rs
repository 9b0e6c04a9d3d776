//! A double of a guest agent: it speaks the guest protocol on a socket and runs nothing.
//!
//! Its commands: `echo TEXT`, `cat` (until its input ends), `bytes N` (pieces of 32 KiB), `flood`
//! (bytes without end), `sleep` (until it is cancelled; reads no input), `wait` (for
//! [`GuestDouble::release`]), `mute` (never says that it runs), `fail`, `babble` (breaks the
//! protocol) and `hang up` (ends the session). Its files are named after what they do, see
//! [`file`].

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use scaibunker_guest_protocol::{
    GuestError, GuestErrorKind,
    exec::{ExecSpec, Exit, Started},
    files::CALL_HEADER,
    frame::{Frame, FrameKind},
    frame_reader::FrameReader,
    greeting::GREETING_BYTES,
    identity::SetClock,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{Notify, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::channel::GuestChannel;

/// What tests see of it.
#[derive(Default)]
pub struct GuestDouble {
    /// Commands that run; one that is cancelled does not.
    pub running: AtomicUsize,
    /// Bytes of output that the worker has taken.
    pub sent: AtomicU64,
    pub specs: Mutex<Vec<ExecSpec>>,
    /// Signals and resizes, with the path they came to.
    pub told: Mutex<Vec<(String, Value)>>,
    /// The calls on files, and what came of each body.
    pub calls: Mutex<Vec<Value>>,
    pub bodies: Mutex<Vec<Result<usize, String>>>,
    pub request_headers: Mutex<Vec<HeaderMap>>,
    /// The times that its clock was set to.
    pub clocks: Mutex<Vec<i64>>,
    /// Whether it refuses to set its clock.
    pub has_no_clock: AtomicBool,
    released: Notify,
    gone: CancellationToken,
}

type Guest = State<Arc<GuestDouble>>;

impl GuestDouble {
    /// A guest and the worker's session with it.
    pub async fn start() -> (Arc<Self>, GuestChannel) {
        let guest = Arc::new(Self::default());
        let (host, port) = UnixStream::pair().unwrap();
        guest.serve(port);
        let channel = GuestChannel::open(host).await.unwrap();
        (guest, channel)
    }

    /// Serves one session on a connected port.
    pub fn serve(self: &Arc<Self>, mut port: UnixStream) {
        let served = Arc::clone(self);
        tokio::spawn(async move {
            let mut greeting = [0; GREETING_BYTES];
            port.read_exact(&mut greeting).await.unwrap();
            port.write_all(&greeting).await.unwrap();
            let service = TowerToHyperService::new(Self::routes(&served));
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(64 * 1024)
                .serve_connection(TokioIo::new(port), service);
            tokio::select! {
                _ = serving => {}
                () = served.gone.cancelled() => {}
            }
        });
    }

    /// Lets every command that waits go on.
    pub fn release(&self) {
        self.released.notify_waiters();
    }

    /// Ends the session as a VMM that dies does.
    pub fn die(&self) {
        self.gone.cancel();
    }

    fn routes(guest: &Arc<Self>) -> Router {
        Router::new()
            .route("/exec", post(exec))
            .route("/clock", post(set_clock))
            .route("/hold", post(async || StatusCode::NO_CONTENT))
            .route("/execs/{id}/{what}", post(tell))
            .route("/files", get(file).put(put).delete(file))
            .route("/files/{what}", get(file).post(file).put(put))
            .with_state(Arc::clone(guest))
    }
}

/// Counts a command for as long as it is there.
struct Running(Arc<GuestDouble>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn exec(State(guest): Guest, body: Body) -> Response {
    let mut input = FrameReader::new(body);
    let spec: ExecSpec = input.next().await.unwrap().unwrap().parse().unwrap();
    guest.specs.lock().unwrap().push(spec.clone());
    guest.running.fetch_add(1, Ordering::SeqCst);
    let running = Running(Arc::clone(&guest));
    let (output, frames) = mpsc::channel::<Frame>(1);
    tokio::spawn(async move {
        tokio::select! {
            () = run(&guest, &spec.argv, input, &output) => {}
            () = output.closed() => {}
        }
        drop(running);
    });
    let frames = ReceiverStream::new(frames).map(|frame| Ok::<_, Infallible>(frame.encode()));
    Body::from_stream(frames).into_response()
}

async fn run(
    guest: &GuestDouble,
    argv: &[String],
    mut input: FrameReader<Body>,
    output: &mpsc::Sender<Frame>,
) {
    let say = async |kind, payload: Bytes| {
        let bytes = payload.len() as u64;
        let is_taken = output.send(Frame::data(kind, payload)).await.is_ok();
        if is_taken {
            guest.sent.fetch_add(bytes, Ordering::SeqCst);
        }
        is_taken
    };
    let name = argv.first().map_or("login", String::as_str);
    if name == "fail" {
        let kind = GuestErrorKind::Invalid;
        let error = GuestError { kind, message: "no such\x07 user".to_owned() };
        let _ = output.send(Frame::json(FrameKind::Error, &error).unwrap()).await;
        return;
    }
    if name == "mute" {
        return std::future::pending().await;
    }
    let started = Frame::json(FrameKind::Started, &Started { pid: 42 }).unwrap();
    let _ = output.send(started).await;
    match name {
        "echo" => {
            say(FrameKind::Stdout, argv[1].clone().into()).await;
            say(FrameKind::Stderr, "said".into()).await;
        }
        "cat" => loop {
            match input.next().await {
                Ok(Some(frame)) if frame.kind == FrameKind::Stdin => {
                    say(FrameKind::Stdout, frame.payload).await;
                }
                Ok(_) => break,
                Err(_) => return,
            }
        },
        "bytes" => {
            let mut left: usize = argv[1].parse().unwrap();
            while left > 0 {
                let piece = left.min(32 * 1024);
                say(FrameKind::Stdout, vec![b'x'; piece].into()).await;
                left -= piece;
            }
        }
        "flood" => while say(FrameKind::Stdout, vec![b'y'; 32 * 1024].into()).await {},
        "sleep" | "login" => match std::future::pending::<Infallible>().await {},
        "wait" => guest.released.notified().await,
        "babble" => drop(say(FrameKind::Gap, "?".into()).await),
        "hang up" => guest.die(),
        other => panic!("this guest has no {other}"),
    }
    let exit =
        Exit { exit_code: 0, signal: None, timed_out: false, oom_killed: false, duration_ms: 1 };
    let _ = output.send(Frame::json(FrameKind::Exit, &exit).unwrap()).await;
}

async fn set_clock(State(guest): Guest, body: Bytes) -> Response {
    if guest.has_no_clock.load(Ordering::SeqCst) {
        return refuse(GuestErrorKind::Failed);
    }
    let SetClock { unix_time_ns } = serde_json::from_slice(&body).unwrap();
    guest.clocks.lock().unwrap().push(unix_time_ns);
    StatusCode::NO_CONTENT.into_response()
}

async fn tell(State(guest): Guest, request: Request) -> StatusCode {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    guest.told.lock().unwrap().push((path, serde_json::from_slice(&body).unwrap()));
    StatusCode::NO_CONTENT
}

fn refuse(kind: GuestErrorKind) -> Response {
    let error = GuestError { kind, message: "it\x1b says so".to_owned() };
    (StatusCode::BAD_REQUEST, serde_json::to_vec(&error).unwrap()).into_response()
}

/// `/endless`, `/stuck` (never answered), `/errors/{kind}`, and `/odd` with headers and a status
/// that are not a guest's to send; all others hold `hello`.
async fn file(State(guest): Guest, headers: HeaderMap) -> Response {
    let call: Value = serde_json::from_slice(headers[CALL_HEADER].as_bytes()).unwrap();
    let path = call["path"].as_str().unwrap().to_owned();
    guest.calls.lock().unwrap().push(call);
    guest.request_headers.lock().unwrap().push(headers);
    if let Some(kind) = path.strip_prefix("/errors/") {
        return refuse(serde_json::from_value(kind.into()).unwrap());
    }
    match path.as_str() {
        "/stuck" => std::future::pending().await,
        "/endless" => {
            let pieces = stream::repeat_with(move || {
                guest.sent.fetch_add(32 * 1024, Ordering::SeqCst);
                Ok::<_, io::Error>(vec![0; 32 * 1024])
            });
            Body::from_stream(pieces).into_response()
        }
        "/odd" => (StatusCode::FOUND, [("location", "http://elsewhere")]).into_response(),
        _ => ([("etag", "\"1\""), ("set-cookie", "a=b")], "hello").into_response(),
    }
}

/// A body on its way; one that is given up never ends.
struct Arriving {
    guest: Arc<GuestDouble>,
    came: Option<Result<usize, String>>,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let came = self.came.take().unwrap_or_else(|| Err("given up".to_owned()));
        self.guest.bodies.lock().unwrap().push(came);
    }
}

/// `/full` is refused after the first piece, `/slow` is read a piece every 10 ms.
async fn put(State(guest): Guest, headers: HeaderMap, mut body: Body) -> Response {
    let call: Value = serde_json::from_slice(headers[CALL_HEADER].as_bytes()).unwrap();
    let path = call["path"].as_str().unwrap().to_owned();
    guest.calls.lock().unwrap().push(call);
    let mut arriving = Arriving { guest, came: None };
    let mut bytes = 0;
    while let Some(piece) = body.frame().await {
        match piece {
            Ok(piece) => bytes += piece.into_data().map_or(0, |data| data.len()),
            Err(_) => return refuse(GuestErrorKind::Failed),
        }
        match path.as_str() {
            "/full" => return refuse(GuestErrorKind::NoSpace),
            "/slow" => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => {}
        }
    }
    arriving.came = Some(Ok(bytes));
    format!("{{\"size_bytes\":{bytes}}}").into_response()
}

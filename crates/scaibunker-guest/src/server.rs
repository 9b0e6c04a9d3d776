//! The agent's routes.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use scaibunker_guest_protocol::{
    MAX_JSON_BYTES,
    identity::{Identity, Prepare, SetClock},
    log::LogLine,
};
use serde_json::from_slice;
use tokio::sync::mpsc;

use crate::{
    body::Body,
    cgroup::BunkerCgroup,
    error::AgentError,
    exec::{self, Running},
    files::{self, FileThreads},
    freeze::Freezer,
    hold::Hold,
    identity::{self, EntropyPool},
    log::Log,
    reaper::Reaper,
    root::BunkerRoot,
    session::PortStream,
};

/// Requests at the same time; a host that wants more waits.
const MAX_STREAMS: u32 = 128;

/// Input that a command has not read is kept up to a window's size. The connection's window has
/// room for every stream's, so that a command that does not read stops no other; all together are
/// at most this part of the memory, where that allows for windows worth having.
const MAX_MEMORY_SHARE: u64 = 8;
const MIN_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const MAX_STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Large frames, as each one costs both sides work of its own.
const MAX_FRAME_BYTES: u32 = 256 * 1024;

/// Output on its way to a host that does not read, per command.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Log lines on their way to the host.
const QUEUED_LINES: usize = 16;

/// Before the id of a command that runs.
const EXECS: &str = "/execs/";

const REQUEST_ID_HEADER: &str = "x-request-id";

/// Longest request id that is logged.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The agent's state, shared by all requests of all sessions.
#[derive(Debug)]
pub struct Agent {
    pub cgroup: BunkerCgroup,
    pub reaper: Reaper,
    pub log: Log,
    pub running: Running,
    file_threads: FileThreads,
    entropy: EntropyPool,
    freezer: Arc<Freezer>,
    pub hold: Hold,
    /// Set at the first `prepare`: a failed one leaves half a root, and the host ends the VM.
    is_prepared: AtomicBool,
    root: OnceLock<Arc<BunkerRoot>>,
}

impl Agent {
    /// An agent before `prepare`.
    pub fn new(cgroup: BunkerCgroup, reaper: Reaper, log: Log) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            cgroup,
            reaper,
            log,
            running: Running::default(),
            file_threads: FileThreads::default(),
            entropy: EntropyPool::open()?,
            freezer: Arc::default(),
            hold: Hold::default(),
            is_prepared: AtomicBool::new(false),
            root: OnceLock::new(),
        }))
    }

    fn root(&self) -> Result<&Arc<BunkerRoot>, AgentError> {
        self.root.get().ok_or_else(|| AgentError::Conflict("not prepared yet".to_owned()))
    }

    async fn prepare(&self, prepare: Prepare) -> Result<(), AgentError> {
        if self.is_prepared.swap(true, Ordering::Relaxed) {
            return Err(AgentError::Conflict("prepared already".to_owned()));
        }
        let root = Arc::new(BunkerRoot::mount()?);
        identity::apply(&prepare.identity, &self.entropy, &root)?;
        identity::provide_resolver(&root)?;
        for argv in prepare.warm_up {
            exec::warm_up(self, &root, argv).await;
        }
        // Nobody else sets it: the swap above lets one caller in.
        self.root.get_or_init(|| root);
        Ok(())
    }
}

impl Agent {
    /// Commands that were held go on.
    fn go_on(&self) -> Result<(), AgentError> {
        self.hold.release(&self.cgroup).map_err(AgentError::io("let the commands go on"))
    }
}

/// What the host may send on one stream before somebody reads.
fn stream_window_bytes(memory_bytes: u64) -> u32 {
    let share = memory_bytes / MAX_MEMORY_SHARE / u64::from(MAX_STREAMS);
    let share = u32::try_from(share).unwrap_or(u32::MAX);
    share.clamp(MIN_STREAM_WINDOW_BYTES, MAX_STREAM_WINDOW_BYTES)
}

/// Serves one session to its end. Commands that still run then are killed, unless they are held.
pub async fn serve(agent: &Arc<Agent>, stream: PortStream) {
    let service = service_fn(|request| {
        let agent = Arc::clone(agent);
        async move { Ok::<_, Infallible>(answer(agent, request).await) }
    });
    let info = rustix::system::sysinfo();
    let window = stream_window_bytes(u64::from(info.mem_unit) * info.totalram);
    let session = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(window * MAX_STREAMS)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .auto_date_header(false)
        .serve_connection(stream, service);
    if let Err(error) = session.await {
        agent.log.line(format!("session ended: {error}"));
    }
}

async fn answer(agent: Arc<Agent>, request: Request<Incoming>) -> Response<Body> {
    let request_id = request_id(request.headers());
    let path = request.uri().path().to_owned();
    match route(&agent, request).await {
        Ok(response) => response,
        Err(error) => {
            let message = format!("{path} failed: {}", error.chain());
            agent.log.write(LogLine { message, request_id, exec_id: None });
            let body = serde_json::to_vec(&error.to_guest_error()).unwrap_or_default();
            respond(error.status(), Body::whole(body))
        }
    }
}

async fn route(
    agent: &Arc<Agent>,
    request: Request<Incoming>,
) -> Result<Response<Body>, AgentError> {
    let done = respond(StatusCode::NO_CONTENT, Body::whole(Bytes::new()));
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/prepare") => {
            agent.prepare(read_json::<Prepare>(request).await?).await?;
            Ok(done)
        }
        (&Method::POST, "/identify") => {
            let root = agent.root()?;
            identity::apply(&read_json::<Identity>(request).await?, &agent.entropy, root)?;
            agent.go_on()?;
            Ok(done)
        }
        (&Method::POST, "/clock") => {
            identity::set_clock(read_json::<SetClock>(request).await?.unix_time_ns)?;
            agent.go_on()?;
            Ok(done)
        }
        (&Method::POST, "/hold") => {
            let held = agent.hold.take(&agent.cgroup).await;
            held.map_err(AgentError::io("stop the commands"))?;
            Ok(done)
        }
        (&Method::POST, "/freeze") => {
            agent.freezer.freeze(agent.root()?).await?;
            Ok(done)
        }
        (&Method::POST, "/thaw") => {
            agent.freezer.thaw(agent.root()?).await?;
            Ok(done)
        }
        (&Method::POST, "/exec") => {
            let root = Arc::clone(agent.root()?);
            let body = exec::serve(Arc::clone(agent), root, request.into_body()).await?;
            Ok(respond(StatusCode::OK, body))
        }
        (&Method::GET, "/log") => {
            let (sender, lines) = mpsc::channel(QUEUED_LINES);
            tokio::spawn(agent.log.clone().follow(sender));
            Ok(respond(StatusCode::OK, Body::stream(Vec::new(), lines)))
        }
        (&Method::POST, path) if path.starts_with(EXECS) => {
            match path[EXECS.len()..].split_once('/') {
                Some((exec_id, "signal")) => {
                    let exec_id = exec_id.to_owned();
                    agent.running.signal(&exec_id, read_json(request).await?)?;
                }
                Some((exec_id, "resize")) => {
                    let exec_id = exec_id.to_owned();
                    agent.running.resize(&exec_id, read_json(request).await?)?;
                }
                _ => return Err(AgentError::Unknown(format!("the agent does not know {path}"))),
            }
            Ok(done)
        }
        (_, path) if path == files::ROUTE || path.starts_with(files::ROUTES) => {
            let root = Arc::clone(agent.root()?);
            files::serve(&agent.file_threads, root, request).await
        }
        (method, path) => {
            let message = format!("the agent does not know {method} {path}");
            Err(AgentError::Unknown(message))
        }
    }
}

async fn read_json<T: serde::de::DeserializeOwned>(
    request: Request<Incoming>,
) -> Result<T, AgentError> {
    let body = Limited::new(request.into_body(), MAX_JSON_BYTES).collect().await;
    let bytes = body.map_err(|e| AgentError::Invalid(format!("cannot read the body: {e}")))?;
    from_slice(&bytes.to_bytes())
        .map_err(|e| AgentError::Invalid(format!("the body is not the expected JSON: {e}")))
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    (!id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_input_takes_a_bounded_share_of_the_memory() {
        assert_eq!(stream_window_bytes(32 << 20), MIN_STREAM_WINDOW_BYTES);
        assert_eq!(stream_window_bytes(128 << 20), 128 * 1024);
        assert_eq!(stream_window_bytes(64 << 30), MAX_STREAM_WINDOW_BYTES);
    }
}

//! The controller's end of a link: an HTTP/2 client on the connection that the worker dialled.

mod bridges;
mod bunkers;
mod exchange;
mod execs;
mod files;
mod images;
mod snapshots;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use scaibunker_api::{
    REQUEST_ID_HEADER,
    error::{ErrorBody, ErrorCode},
    ids::WorkerId,
};
use scaibunker_guest_protocol::{frame::FrameError, frame_reader::ReadError};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::{
    exchange::{AnswerBody, RequestBody},
    execs::ExecFrames,
    files::FileRequest,
};

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(6);
/// What one unread stream may hold in this process.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The largest that HTTP/2 has. Streams whose readers stall use the connection's window up; were
/// it a few streams wide, a handful of stalled readers would stop every call to the worker.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// An output frame and its header in one piece.
const MAX_FRAME_BYTES: u32 = 128 * 1024;
const CALL_LIMIT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A call over a link failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the link to the worker broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the worker did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the worker refused: {0}")]
    Refused(ErrorBody),
    #[error("the worker's answer with status {0} cannot be read")]
    Unexpected(StatusCode),
    #[error("the worker broke the protocol of exec streams")]
    Frame(#[from] FrameError),
}

impl LinkError {
    fn broken(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken(source.into())
    }
}

impl From<ReadError<Self>> for LinkError {
    fn from(error: ReadError<Self>) -> Self {
        match error {
            ReadError::Protocol(error) => Self::Frame(error),
            ReadError::Body(error) => error,
        }
    }
}

/// The way to one worker; clones share the connection.
#[derive(Debug, Clone)]
pub struct Link {
    worker_id: WorkerId,
    number: u64,
    sender: SendRequest<Bytes>,
    closed: CancellationToken,
}

impl Link {
    /// Speaks HTTP/2 on a connection that a worker has upgraded. The returned future carries the
    /// link and ends with it; it is to be dropped when `closed` is cancelled.
    pub async fn open(
        worker_id: WorkerId,
        connection: Upgraded,
        closed: CancellationToken,
    ) -> Result<(Self, impl Future<Output = Result<(), LinkError>> + Send + use<>), LinkError> {
        let (sender, mut connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_BYTES)
            .enable_push(false)
            .handshake(TokioIo::new(connection))
            .await
            .map_err(LinkError::broken)?;
        let pings = connection.ping_pong();
        let carrier = async move {
            tokio::select! {
                ended = connection => ended.map_err(LinkError::broken),
                error = keep_alive(pings) => Err(error),
            }
        };
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok((Self { worker_id, number, sender, closed }, carrier))
    }

    /// The worker at the other end.
    #[must_use]
    pub fn worker_id(&self) -> WorkerId {
        self.worker_id
    }

    /// Whether both are handles of one connection.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.number == other.number
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Sends a request; an answer that is no success is an error.
    async fn send(&self, request: Request<RequestBody>) -> Result<Response<AnswerBody>, LinkError> {
        let response = exchange::exchange(self.sender.clone(), request).await?;
        let status = response.status();
        // A conditional request may well be answered with 304.
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            Ok(response)
        } else {
            Err(refusal(response).await)
        }
    }

    /// Sends a request whose answer is JSON.
    async fn call<T: DeserializeOwned>(
        &self,
        request: Request<RequestBody>,
        limit: Duration,
    ) -> Result<T, LinkError> {
        let answer = async { read_json(self.send(request).await?).await };
        timeout(limit, answer).await.map_err(|_| LinkError::Silent(limit))?
    }

    /// Sends a request whose answer says nothing but that it was done.
    async fn tell(&self, request: Request<RequestBody>) -> Result<(), LinkError> {
        match timeout(CALL_LIMIT, self.send(request)).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(LinkError::Silent(CALL_LIMIT)),
        }
    }
}

/// Ends when the worker no longer answers.
async fn keep_alive(mut pings: Option<PingPong>) -> LinkError {
    let Some(pings) = &mut pings else { return std::future::pending().await };
    loop {
        sleep(KEEP_ALIVE_INTERVAL).await;
        match timeout(KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return LinkError::broken(error),
            Err(_) => return LinkError::Silent(KEEP_ALIVE_TIMEOUT),
        }
    }
}

fn request(
    method: Method,
    path: &str,
    request_id: &str,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // The paths are made of ids alone, and so are request ids.
    if let Ok(uri) = format!("http://worker{path}").parse() {
        *request.uri_mut() = uri;
    }
    if let Ok(value) = request_id.parse() {
        request.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    request
}

fn json_request<T: Serialize>(
    method: Method,
    path: &str,
    request_id: &str,
    body: &T,
) -> Result<Request<RequestBody>, LinkError> {
    let body = serde_json::to_vec(body).map_err(LinkError::broken)?;
    let mut request = request(method, path, request_id, RequestBody::Whole(body.into()));
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(request)
}

async fn read_json<T: DeserializeOwned>(response: Response<AnswerBody>) -> Result<T, LinkError> {
    let status = response.status();
    let body = whole(response).await?;
    serde_json::from_slice(&body).map_err(|_| LinkError::Unexpected(status))
}

async fn whole(response: Response<AnswerBody>) -> Result<Bytes, LinkError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    Ok(body.collect().await.map_err(LinkError::Broken)?.to_bytes())
}

async fn refusal(response: Response<AnswerBody>) -> LinkError {
    let status = response.status();
    let body = timeout(CALL_LIMIT, whole(response)).await;
    let parsed = body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice(&body).ok());
    match parsed {
        Some(error) => LinkError::Refused(error),
        None if status == StatusCode::NOT_FOUND => LinkError::Refused(ErrorBody::new(
            ErrorCode::NotFound,
            "the worker knows no such thing",
        )),
        None => LinkError::Unexpected(status),
    }
}

//! The controller's end of a link: an HTTP/2 client on the connection that the worker dialled.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use scaibunker_api::{
    REQUEST_ID_HEADER,
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, WorkerId},
    worker::{BunkerReport, StartBunker},
};
use scaibunker_guest_protocol::frame::{Frame, FrameDecoder, FrameError};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What one unread stream may hold in this process.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The largest that HTTP/2 has. Streams whose readers stall use the connection's window up; were
/// it a few streams wide, a handful of stalled readers would stop every call to the worker.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// A microVM that is not there after this long counts as failed.
const START_LIMIT: Duration = Duration::from_secs(60);
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

/// The way to one worker; clones share the connection.
#[derive(Debug, Clone)]
pub struct Link {
    worker_id: WorkerId,
    number: u64,
    sender: SendRequest<Full<Bytes>>,
    closed: CancellationToken,
}

impl Link {
    /// Speaks HTTP/2 on a connection that a worker has upgraded. The returned future carries the
    /// link and ends with it; it is to be dropped when `closed` is cancelled.
    pub async fn open(
        worker_id: WorkerId,
        connection: Upgraded,
        closed: CancellationToken,
    ) -> Result<(Self, impl Future<Output = Result<(), hyper::Error>> + Send + use<>), LinkError>
    {
        let (sender, carrier) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(connection)
            .await
            .map_err(LinkError::broken)?;
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

    /// Starts a bunker; returns once it runs.
    pub async fn start(
        &self,
        id: BunkerId,
        spec: &StartBunker,
        request_id: &str,
    ) -> Result<BunkerReport, LinkError> {
        let body = serde_json::to_vec(spec).map_err(LinkError::broken)?;
        let mut request = request(Method::PUT, format!("/bunkers/{id}"), request_id, body.into());
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        self.call(request, START_LIMIT).await
    }

    /// Frees everything of a bunker and makes the worker forget it.
    pub async fn remove(&self, id: BunkerId, request_id: &str) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}");
        let response =
            timeout(CALL_LIMIT, self.send(request(Method::DELETE, path, request_id, Bytes::new())))
                .await
                .map_err(|_| LinkError::Silent(CALL_LIMIT))??;
        if response.status().is_success() { Ok(()) } else { Err(refusal(response).await) }
    }

    /// What the worker holds.
    pub async fn list(&self, request_id: &str) -> Result<Vec<BunkerReport>, LinkError> {
        let path = "/bunkers".to_owned();
        self.call(request(Method::GET, path, request_id, Bytes::new()), CALL_LIMIT).await
    }

    /// Runs a command; `input` is all its frames. Dropping the answer cancels the command.
    pub async fn exec(
        &self,
        id: BunkerId,
        input: Bytes,
        request_id: &str,
    ) -> Result<ExecFrames, LinkError> {
        let path = format!("/bunkers/{id}/exec");
        let response = self.send(request(Method::POST, path, request_id, input)).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(ExecFrames { body: response.into_body(), decoder: FrameDecoder::default() })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, LinkError> {
        self.sender.clone().send_request(request).await.map_err(LinkError::broken)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<T, LinkError> {
        let answer = async {
            let response = self.send(request).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let status = response.status();
            let body = whole(response).await?;
            serde_json::from_slice(&body).map_err(|_| LinkError::Unexpected(status))
        };
        timeout(limit, answer).await.map_err(|_| LinkError::Silent(limit))?
    }
}

fn request(method: Method, path: String, request_id: &str, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
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

async fn whole(response: Response<Incoming>) -> Result<Bytes, LinkError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    Ok(body.collect().await.map_err(LinkError::Broken)?.to_bytes())
}

async fn refusal(response: Response<Incoming>) -> LinkError {
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

/// The frames that a running command sends.
#[derive(Debug)]
pub struct ExecFrames {
    body: Incoming,
    decoder: FrameDecoder,
}

impl ExecFrames {
    /// The next frame; `None` at the end of the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
                Some(piece) => {
                    let piece = piece.map_err(LinkError::broken)?;
                    if let Some(bytes) = piece.data_ref() {
                        self.decoder.push(bytes);
                    }
                }
            }
        }
    }
}

//! The channel to one guest agent: HTTP/2 over its virtio port.

mod exchange;

use std::{
    io::{self, Cursor},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Method, Request, Response, StatusCode, header::HeaderValue};
use http_body_util::{BodyExt as _, Limited};
use scaibunker_api::REQUEST_ID_HEADER;
use scaibunker_guest_protocol::{
    GuestError, GuestErrorKind, MAX_JSON_BYTES,
    exec::ExecSpec,
    frame::{Frame, FrameKind},
    greeting::Greeting,
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, join},
    net::UnixStream,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

pub use self::exchange::{AnswerBody, GuestBody};
use crate::{assets::ImageConfig, engine, vm_home::VmHome};

/// How long a greeting may stay without its echo before a fresh one is sent: bytes that a booting
/// guest never read are lost.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(500);
const RETRY_INTERVAL: Duration = Duration::from_millis(2);
/// After a greeting without an echo the port is left closed for this long, and twice as long each time: a
/// guest that takes the greeting for the rest of an earlier session's frame has to see that one end.
const FIRST_GAP: Duration = Duration::from_millis(50);
const MAX_GAP: Duration = Duration::from_secs(1);
/// What one unread stream may hold in this process.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Room for every stream that a worker opens: one that nobody reads must stop no other.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// An output frame and its header in one piece.
const MAX_FRAME_BYTES: u32 = 128 * 1024;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Of one request's body on its way to the guest.
const SEND_BUFFER_BYTES: usize = 512 * 1024;

/// The guest agent could not be reached or refused.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the guest agent did not answer within {limit_ms} ms")]
    Timeout { limit_ms: u128 },
    #[error("cannot reach the guest agent")]
    Connect(#[from] io::Error),
    #[error("the session with the guest agent broke")]
    Http(#[from] h2::Error),
    #[error("the guest agent refused: {0}")]
    Refused(GuestError),
}

/// A session; clones share it.
#[derive(Debug, Clone)]
pub struct GuestChannel {
    sender: SendRequest<Bytes>,
}

impl GuestChannel {
    /// Tries until the agent returns a greeting.
    pub async fn connect(home: &VmHome, limit: Duration) -> Result<Self, ChannelError> {
        let deadline = Instant::now() + limit;
        let mut gap = FIRST_GAP;
        loop {
            let attempt = timeout(ATTEMPT_LIMIT, Self::attempt(home)).await;
            let error = match attempt {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => error,
                Err(_) => {
                    sleep(gap).await;
                    gap = (gap * 2).min(MAX_GAP);
                    ChannelError::Timeout { limit_ms: limit.as_millis() }
                }
            };
            if Instant::now() > deadline {
                return Err(error);
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn attempt(home: &VmHome) -> Result<Self, ChannelError> {
        Self::open(engine::channel(home).await?).await
    }

    /// Opens a session on a connected port.
    pub async fn open(port: UnixStream) -> Result<Self, ChannelError> {
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_BYTES)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .enable_push(false)
            .handshake(greet(port).await?)
            .await?;
        // Ends with the session: when the peer or the last sender goes.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends `value` as JSON; the agent confirms with an empty answer.
    pub async fn post<T: Serialize>(
        &self,
        path: &str,
        value: &T,
        request_id: &str,
        limit: Duration,
    ) -> Result<(), ChannelError> {
        let body = serde_json::to_vec(value).map_err(|e| ChannelError::Connect(e.into()))?;
        timeout(limit, self.call(path, body.into(), request_id))
            .await
            .map_err(|_| ChannelError::Timeout { limit_ms: limit.as_millis() })?
    }

    /// Runs a command whose output and result nobody wants.
    pub async fn warm_up(
        &self,
        argv: &[&str],
        image: &ImageConfig,
        limit: Duration,
    ) -> Result<(), ChannelError> {
        let spec = ExecSpec {
            exec_id: "warm".to_owned(),
            request_id: String::new(),
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            cwd: None,
            default_cwd: image.root.workdir.clone(),
            env: image.root.env.clone(),
            user: image.root.user.clone(),
            timeout_ms: Some(limit.as_millis() as u64),
            terminal: None,
        };
        let spec = Frame::json(FrameKind::Spec, &spec).map_err(io::Error::other)?.encode();
        let end = Frame::data(FrameKind::StdinEnd, Bytes::new()).encode();
        let body = GuestBody::Whole(Bytes::from([spec, end].concat()));
        let run = async {
            let mut output = self.send(Method::POST, "/exec", body, "").await?.into_body();
            while let Some(piece) = output.frame().await {
                piece?;
            }
            Ok(())
        };
        timeout(limit, run)
            .await
            .map_err(|_| ChannelError::Timeout { limit_ms: limit.as_millis() })?
    }

    async fn call(&self, path: &str, body: Bytes, request_id: &str) -> Result<(), ChannelError> {
        let body = GuestBody::Whole(body);
        let response = self.send(Method::POST, path, body, request_id).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(());
        }
        Err(ChannelError::Refused(refusal(response.into_body()).await))
    }

    /// Sends a request whose answer the caller reads. Dropping the answer resets the stream.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: GuestBody,
        request_id: &str,
    ) -> Result<Response<AnswerBody>, ChannelError> {
        self.send_with(method, path, HeaderMap::new(), body, request_id).await
    }

    /// [`Self::send`] with further headers.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: GuestBody,
        request_id: &str,
    ) -> Result<Response<AnswerBody>, ChannelError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://guest{path}")
            .parse()
            .map_err(|e| ChannelError::Connect(bad_path(e)))?;
        *request.headers_mut() = headers;
        if let Ok(value) = HeaderValue::from_str(request_id) {
            request.headers_mut().insert(REQUEST_ID_HEADER, value);
        }
        Ok(exchange::exchange(self.sender.clone(), request).await?)
    }
}

fn bad_path(error: http::uri::InvalidUri) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Why the agent refused a request, as it says itself; printable.
pub async fn refusal(body: AnswerBody) -> GuestError {
    let whole = Limited::new(body, MAX_JSON_BYTES).collect().await;
    let bytes = whole.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let silent =
        || GuestError { kind: GuestErrorKind::Failed, message: "it gave no reason".to_owned() };
    let GuestError { kind, message } = serde_json::from_slice(&bytes).unwrap_or_else(|_| silent());
    GuestError { kind, message: printable(&message) }
}

/// Opens a session: what comes before the greeting's echo is an earlier session's.
async fn greet(mut stream: UnixStream) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send> {
    let greeting = Greeting::new(*Uuid::new_v4().as_bytes());
    stream.write_all(greeting.as_bytes()).await?;
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = greeting.end_in(&received) {
            break end;
        }
        let stale = received.len().saturating_sub(greeting.as_bytes().len() - 1);
        received.drain(..stale);
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    received.drain(..end);
    let (reader, writer) = stream.into_split();
    Ok(join(Cursor::new(received).chain(reader), writer))
}

/// A guest's words, fit for a log and an error text: one short line of printable characters.
#[must_use]
pub fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 400;
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_an_earlier_session_left_in_the_port_is_dropped() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let agent = tokio::spawn(async move {
            let earlier = Greeting::new([7; 16]);
            guest.write_all(&[earlier.as_bytes(), &[1; 100_000]].concat()).await.unwrap();
            let mut greeting = [0; scaibunker_guest_protocol::greeting::GREETING_BYTES];
            guest.read_exact(&mut greeting).await.unwrap();
            guest.write_all(&[&greeting[..], b"live"].concat()).await.unwrap();
            let mut heard = String::new();
            guest.read_to_string(&mut heard).await.unwrap();
            heard
        });
        let mut stream = greet(host).await.unwrap();
        let mut live = [0; 4];
        stream.read_exact(&mut live).await.unwrap();
        assert_eq!(&live, b"live");
        stream.write_all(b"hello").await.unwrap();
        drop(stream);
        assert_eq!(agent.await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_guest_that_goes_before_the_echo_is_no_session() {
        let (host, guest) = UnixStream::pair().unwrap();
        drop(guest);
        assert!(greet(host).await.is_err());
    }
}

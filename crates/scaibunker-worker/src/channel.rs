//! The channel to one guest agent: HTTP/2 over its virtio port.

use std::{
    io::{self, Cursor},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::HeaderValue};
use http_body_util::{BodyExt, Full, Limited, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use scaibunker_api::REQUEST_ID_HEADER;
use scaibunker_guest_protocol::{
    GuestError, MAX_JSON_BYTES,
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

use crate::{assets::ImageConfig, engine, vm_home::VmHome};

/// How long a greeting may stay without its echo before a fresh one is sent: bytes that a booting
/// guest never read are lost.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(500);
const RETRY_INTERVAL: Duration = Duration::from_millis(2);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A body the worker sends to a guest.
pub type GuestBody = BoxBody<Bytes, io::Error>;

/// The guest agent could not be reached or refused.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the guest agent did not answer within {limit_ms} ms")]
    Timeout { limit_ms: u128 },
    #[error("cannot reach the guest agent")]
    Connect(#[from] io::Error),
    #[error("the session with the guest agent broke")]
    Http(#[from] hyper::Error),
    #[error("the guest agent refused: {0}")]
    Refused(String),
}

/// A session; clones share it.
#[derive(Debug, Clone)]
pub struct GuestChannel {
    sender: SendRequest<GuestBody>,
}

impl GuestChannel {
    /// Tries until the agent returns a greeting.
    pub async fn connect(home: &VmHome, limit: Duration) -> Result<Self, ChannelError> {
        let deadline = Instant::now() + limit;
        loop {
            let attempt = timeout(ATTEMPT_LIMIT, Self::attempt(home)).await;
            let error = match attempt {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => error,
                Err(_) => ChannelError::Timeout { limit_ms: limit.as_millis() },
            };
            if Instant::now() > deadline {
                return Err(error);
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn attempt(home: &VmHome) -> Result<Self, ChannelError> {
        let stream = greet(engine::channel(home).await?).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(16 * 1024)
            .handshake(TokioIo::new(stream))
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
            env: image.env.clone(),
            user: image.user.clone(),
            timeout_ms: Some(limit.as_millis() as u64),
            terminal: None,
        };
        let spec = Frame::json(FrameKind::Spec, &spec).map_err(io::Error::other)?.encode();
        let end = Frame::data(FrameKind::StdinEnd, Bytes::new()).encode();
        let wire = Bytes::from([spec, end].concat());
        let body = Full::new(wire).map_err(|never| match never {}).boxed();
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
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        let response = self.send(Method::POST, path, body, request_id).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(());
        }
        let text = Limited::new(response.into_body(), MAX_JSON_BYTES)
            .collect()
            .await
            .map_err(|e| ChannelError::Refused(e.to_string()))?
            .to_bytes();
        let message = serde_json::from_slice::<GuestError>(&text)
            .map_or_else(|_| "no reason given".to_owned(), |error| printable(&error.message));
        Err(ChannelError::Refused(message))
    }

    /// Sends a request whose answer the caller reads.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: GuestBody,
        request_id: &str,
    ) -> Result<Response<Incoming>, ChannelError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://guest{path}")
            .parse()
            .map_err(|_| ChannelError::Refused(format!("bad path {path}")))?;
        if let Ok(value) = HeaderValue::from_str(request_id) {
            request.headers_mut().insert(REQUEST_ID_HEADER, value);
        }
        let mut sender = self.sender.clone();
        sender.ready().await?;
        Ok(sender.send_request(request).await?)
    }
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

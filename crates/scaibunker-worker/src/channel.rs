//! The channel to one guest agent: HTTP/2 over its virtio port.

use std::{io, time::Duration};

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
};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::{assets::ImageConfig, engine, vm_home::VmHome};

/// How long one try of a session may stay silent before a fresh one is begun: bytes that a
/// booting guest never read are lost, and the agent's first session may still be starting.
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
    /// Tries until the agent answers a ping.
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
        let stream = engine::channel(home).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(16 * 1024)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends with the session: when the peer or the last sender goes.
        tokio::spawn(connection);
        let channel = Self { sender };
        channel.call(Method::GET, "/ping", Bytes::new(), "").await?;
        Ok(channel)
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
        timeout(limit, self.call(Method::POST, path, body.into(), request_id))
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
            timeout_ms: limit.as_millis() as u64,
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

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        request_id: &str,
    ) -> Result<(), ChannelError> {
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        let response = self.send(method, path, body, request_id).await?;
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

/// A guest's words, fit for a log and an error text: one short line of printable characters.
#[must_use]
pub fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 400;
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

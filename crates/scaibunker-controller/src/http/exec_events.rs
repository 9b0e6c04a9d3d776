//! A command's events as server-sent events.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::OutputChunk,
};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;
use tracing::{Instrument as _, Span};

use super::fault::Fault;
use crate::{
    domain::output::{Piece, TextSplitter},
    exec::{ExecEvent, ExecSession},
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Answers with the events of the command. One that does not even start is an ordinary error.
pub(super) async fn respond(mut session: ExecSession) -> Result<Response, Fault> {
    let first = session.next().await?;
    let mut events = Events::new(session);
    events.push(Ok(first));
    let mut response = Body::from_stream(events.into_stream()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect answers would hold the events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Events {
    /// `None` after the last event: the command is not followed any further.
    session: Option<ExecSession>,
    ready: VecDeque<Bytes>,
    seq: u64,
    stdout: TextSplitter,
    stderr: TextSplitter,
}

impl Events {
    fn new(session: ExecSession) -> Self {
        Self {
            session: Some(session),
            ready: VecDeque::new(),
            seq: 0,
            stdout: TextSplitter::default(),
            stderr: TextSplitter::default(),
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let span = Span::current();
        stream::unfold(self, move |mut events| {
            async move {
                let bytes = events.next().await?;
                Some((Ok(bytes), events))
            }
            .instrument(span.clone())
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            let session = self.session.as_mut()?;
            match timeout(KEEP_ALIVE, session.next()).await {
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Ok(event) => self.push(event),
            }
        }
    }

    fn push(&mut self, event: Result<ExecEvent, ErrorBody>) {
        match event {
            Ok(ExecEvent::Started(started)) => self.emit("started", &started),
            Ok(ExecEvent::Stdout(bytes)) => {
                let piece = self.stdout.push(bytes);
                self.emit_output("stdout", piece);
            }
            Ok(ExecEvent::Stderr(bytes)) => {
                let piece = self.stderr.push(bytes);
                self.emit_output("stderr", piece);
            }
            Ok(ExecEvent::Exit(outcome)) => {
                self.emit_held();
                self.emit("exit", &outcome);
                self.end();
            }
            Err(error) => {
                tracing::warn!(code = error.code.as_str(), "a streamed command failed");
                self.emit_held();
                self.emit("error", &json!({ "code": error.code, "message": error.message }));
                self.end();
            }
        }
    }

    fn emit_held(&mut self) {
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        self.emit_output("stdout", stdout);
        self.emit_output("stderr", stderr);
    }

    fn emit_output(&mut self, name: &str, piece: Option<Piece>) {
        let (text, base64) = match piece {
            None => return,
            Some(Piece::Text(text)) => (Some(text), None),
            Some(Piece::Binary(bytes)) => (None, Some(STANDARD.encode(bytes))),
        };
        self.emit(name, &OutputChunk { seq: self.seq, text, base64 });
        self.seq += 1;
    }

    fn emit(&mut self, name: &str, data: &impl Serialize) {
        // JSON has no line breaks of its own, so one `data` line carries it all.
        let json = serde_json::to_string(data).unwrap_or_else(|error| {
            tracing::error!(%error, "an event cannot be written");
            json!({ "code": ErrorCode::Internal, "message": "unwritable event" }).to_string()
        });
        self.ready.push_back(format!("event: {name}\ndata: {json}\n\n").into());
    }

    fn end(&mut self) {
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.session = None;
    }
}

//! Server-sent events.

use std::{convert::Infallible, future::Future, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use scaibunker_api::error::{ErrorBody, ErrorCode};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;
use tracing::{Instrument as _, Span};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const DONE: &str = "data: [DONE]\n\n";

/// Where events come from.
pub(super) trait EventSource: Send + 'static {
    /// Adds the next events to `events`; none may follow once they are ended. Cancel-safe: a
    /// future that is dropped has lost nothing.
    fn next(&mut self, events: &mut Events) -> impl Future<Output = ()> + Send;
}

/// Events that are written and not yet sent.
#[derive(Debug, Default)]
pub(super) struct Events {
    text: String,
    is_ended: bool,
}

impl Events {
    /// Adds an event. One with an `id` is where a browser goes on after it reconnects.
    pub(super) fn add(&mut self, name: &str, id: Option<u64>, data: &impl Serialize) {
        // JSON has no line breaks of its own, so one `data` line carries it all.
        let json = serde_json::to_string(data).unwrap_or_else(|error| {
            tracing::error!(%error, "an event cannot be written");
            json!({ "code": ErrorCode::Internal, "message": "unwritable event" }).to_string()
        });
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        self.text.push_str(&format!("event: {name}\n{id}data: {json}\n\n"));
    }

    /// Ends the stream.
    pub(super) fn end(&mut self) {
        self.text.push_str(DONE);
        self.is_ended = true;
    }

    /// Ends the stream with what went wrong.
    pub(super) fn fail(&mut self, error: &ErrorBody) {
        self.add("error", None, &json!({ "code": error.code, "message": error.message }));
        self.end();
    }
}

/// Answers with the events of `source`, of which `first` are at hand. They are asked for as the
/// client reads them.
pub(super) fn respond(source: impl EventSource, first: Events) -> Response {
    let span = Span::current();
    let pieces = stream::unfold((source, first), move |(mut source, mut events)| {
        async move {
            if events.text.is_empty() {
                if events.is_ended {
                    return None;
                }
                let added = timeout(KEEP_ALIVE, async {
                    while events.text.is_empty() {
                        source.next(&mut events).await;
                    }
                });
                if added.await.is_err() {
                    events.text.push_str(": keep-alive\n\n");
                }
            }
            let text = Bytes::from(std::mem::take(&mut events.text));
            Some((Ok::<_, Infallible>(text), (source, events)))
        }
        .instrument(span.clone())
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect answers would hold the events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

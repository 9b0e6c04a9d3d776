//! The request id: made here, in every answer, and on every log line of the request.

use std::time::Instant;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use scaibunker_api::{REQUEST_ID_HEADER, ids::RequestId};
use tracing::{Instrument as _, field::Empty};

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The id of the request that is being handled.
pub(super) fn current_request_id() -> RequestId {
    // Outside of a request nobody asks; an id that nobody knows is better than a panic.
    CURRENT.try_with(|id| *id).unwrap_or_else(|_| RequestId::generate())
}

/// The caller's trace (W3C Trace Context), if it names one in the form of version 00.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths = [2, 32, 16, 2];
    let mut parts = value.split('-');
    let is_whole = lengths
        .iter()
        .all(|length| parts.next().is_some_and(|part| part.len() == *length && is_hex(part)));
    (is_whole && parts.next().is_none()).then_some(value)
}

pub(super) async fn with_request_id(mut request: Request, next: Next) -> Response {
    let request_id = RequestId::generate();
    request.extensions_mut().insert(request_id);
    let span = tracing::info_span!(
        "request",
        %request_id,
        method = %request.method(),
        path = request.uri().path(),
        tenant_id = Empty,
        bunker_id = Empty,
        traceparent = Empty,
    );
    if let Some(parent) = traceparent(request.headers()) {
        span.record("traceparent", parent);
    }
    let began = Instant::now();
    let handled = CURRENT.scope(request_id, next.run(request));
    let mut response = handled.instrument(span.clone()).await;
    let name = HeaderName::from_static(REQUEST_ID_HEADER);
    if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
        response.headers_mut().insert(name, value);
    }
    let (status, duration_ms) = (response.status().as_u16(), began.elapsed().as_millis() as u64);
    span.in_scope(|| tracing::info!(status, duration_ms, "request answered"));
    response
}

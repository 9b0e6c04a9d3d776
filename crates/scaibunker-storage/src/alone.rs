//! The storage proxy as a server of its own: no controller, no database.

use std::time::Instant;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use scaibunker_api::{
    API_PREFIX, REQUEST_ID_HEADER,
    envelope::{Envelope, Meta, Status},
    error::{ErrorBody, ErrorCode, chain},
    ids::RequestId,
};
use serde::Serialize;
use tracing::Instrument as _;

use crate::{Objects, WorkerToken, proxy::Failure, router};

/// Looked up to see whether the store answers; that it is not there is an answer.
const PROBE: &str = "files/health";

#[derive(Serialize)]
struct Health {
    health: &'static str,
}

/// Every route of the server: the proxy's at the place that they have behind a controller,
/// `/health` (the process runs) and `/health/ready` (the object store answers).
pub fn alone(objects: Objects, worker_token: WorkerToken) -> Router {
    let health = Router::new()
        .route("/health", get(|request: Request| async move { healthy(&request, "alive") }))
        .route("/health/ready", get(ready).with_state(objects.clone()));
    Router::new()
        .nest(API_PREFIX, health.clone().merge(router(objects, worker_token)))
        .merge(health)
        .fallback(unknown_route)
        .layer(middleware::from_fn(with_request_id))
}

/// Names the request in its answer and on every log line about it.
async fn with_request_id(mut request: Request, next: Next) -> Response {
    let request_id = RequestId::generate();
    request.extensions_mut().insert(request_id);
    // The path alone: a signed URL's query is a credential.
    let span = tracing::info_span!(
        "request",
        %request_id,
        method = %request.method(),
        path = request.uri().path(),
    );
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    let (status, duration_ms) = (response.status().as_u16(), began.elapsed().as_millis() as u64);
    span.in_scope(|| tracing::info!(status, duration_ms, "request answered"));
    response
}

fn id_of(request: &Request) -> RequestId {
    request.extensions().get().copied().unwrap_or_else(RequestId::generate)
}

fn healthy(request: &Request, health: &'static str) -> Response {
    let meta = Meta { request_id: id_of(request) };
    let data = Health { health };
    (StatusCode::OK, Json(Envelope { status: Status::Ok, data, meta })).into_response()
}

async fn ready(State(objects): State<Objects>, request: Request) -> Response {
    if let Err(error) = objects.head(PROBE).await {
        tracing::error!(error = chain(&error), "not ready: the object store does not answer");
        let message = "the object store does not answer; the log has the cause";
        let error = ErrorBody::new(ErrorCode::NotReady, message);
        return Failure(error, id_of(&request)).into_response();
    }
    healthy(&request, "ready")
}

async fn unknown_route(method: Method, uri: Uri, request: Request) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("there is no route {method} {path} at this storage proxy");
    Failure(ErrorBody::new(ErrorCode::NotFound, message), id_of(&request))
}

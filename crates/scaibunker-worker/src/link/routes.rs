//! What the controller can ask a worker over the link (`scaibunker_api::worker`).

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use scaibunker_api::{
    REQUEST_ID_HEADER,
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    worker::{BunkerReport, StartBunker},
};
use tracing::Instrument as _;

use super::exec;
use crate::supervisor::Supervisor;

type Supervised = State<Arc<Supervisor>>;

pub(super) fn router(supervisor: Arc<Supervisor>) -> Router {
    Router::new()
        .route("/bunkers", get(list))
        .route("/bunkers/{id}", get(show).put(start).delete(remove))
        .route("/bunkers/{id}/exec", post(exec::exec).layer(DefaultBodyLimit::disable()))
        .fallback(unknown_route)
        .layer(middleware::from_fn(with_request_id))
        .with_state(supervisor)
}

/// A failure as it goes over the link.
pub(super) struct Failure(pub ErrorBody);

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self(body)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0.code.http_status(), Json(self.0)).into_response()
    }
}

/// Puts the caller's request id on every log line that the call leads to.
async fn with_request_id(request: Request, next: Next) -> Response {
    let span = tracing::info_span!("link", request_id = request_id(request.headers()));
    next.run(request).instrument(span).await
}

pub(super) fn request_id(headers: &HeaderMap) -> String {
    let text = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    text.unwrap_or_default().to_owned()
}

async fn list(State(supervisor): Supervised) -> Json<Vec<BunkerReport>> {
    Json(supervisor.reports())
}

async fn show(
    State(supervisor): Supervised,
    Path(id): Path<BunkerId>,
) -> Result<Json<BunkerReport>, Failure> {
    Ok(Json(supervisor.report(id)?))
}

async fn start(
    State(supervisor): Supervised,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<BunkerReport>, Failure> {
    let spec: StartBunker = serde_json::from_slice(&body)
        .map_err(|e| ErrorBody::new(ErrorCode::BadRequest, format!("not a bunker's start: {e}")))?;
    Ok(Json(supervisor.start(id, spec, request_id(&headers)).await?))
}

async fn remove(State(supervisor): Supervised, Path(id): Path<BunkerId>) -> StatusCode {
    supervisor.remove(id).await;
    StatusCode::NO_CONTENT
}

async fn unknown_route() -> Failure {
    Failure(ErrorBody::new(ErrorCode::NotFound, "this worker has no such route"))
}

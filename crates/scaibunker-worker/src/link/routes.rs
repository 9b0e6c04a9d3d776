//! What the controller can ask a worker over the link (`scaibunker_api::worker`).

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRef, Path, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use scaibunker_api::{
    REQUEST_ID_HEADER,
    bunker::BunkerMetrics,
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    worker::{BunkerReport, ForkBunker, ForkedBunker, PauseBunker, StartBunker},
};
use scaibunker_guest_protocol::files::{
    DeleteCall, FileCall, ListCall, MakeDirectoryCall, MoveCall, WatchCall, WriteCall,
};
use serde::de::DeserializeOwned;
use tracing::Instrument as _;

use super::{bridges, commit, exec, execs, files::pass, images, snapshots};
use crate::{
    images::Images,
    snapshots::Snapshots,
    storage::StorageClient,
    supervisor::{Origin, Supervisor},
};

type Supervised = State<Arc<Supervisor>>;

/// What the routes work with.
#[derive(Clone)]
struct Parts {
    supervisor: Arc<Supervisor>,
    storage: Arc<StorageClient>,
    images: Images,
    snapshots: Snapshots,
}

impl FromRef<Parts> for Snapshots {
    fn from_ref(parts: &Parts) -> Self {
        parts.snapshots.clone()
    }
}

impl FromRef<Parts> for Images {
    fn from_ref(parts: &Parts) -> Self {
        parts.images.clone()
    }
}

impl FromRef<Parts> for Arc<Supervisor> {
    fn from_ref(parts: &Parts) -> Self {
        Self::clone(&parts.supervisor)
    }
}

impl FromRef<Parts> for Arc<StorageClient> {
    fn from_ref(parts: &Parts) -> Self {
        Self::clone(&parts.storage)
    }
}

/// The worker's routes, without a connection to serve them on.
pub fn router(
    supervisor: Arc<Supervisor>,
    storage: Arc<StorageClient>,
    images: Images,
    snapshots: Snapshots,
) -> Router {
    let files = Router::<Parts>::new()
        .route("/files", get(pass::<FileCall>).put(pass::<WriteCall>).delete(pass::<DeleteCall>))
        .route("/files/stat", get(pass::<FileCall>))
        .route("/files/list", get(pass::<ListCall>))
        .route("/files/mkdir", post(pass::<MakeDirectoryCall>))
        .route("/files/move", post(pass::<MoveCall>))
        .route("/files/watch", get(pass::<WatchCall>))
        .route("/files/archive", get(pass::<FileCall>).put(pass::<WriteCall>))
        .route("/files/commit", post(commit::commit));
    let execs = Router::<Parts>::new()
        .route("/exec", post(exec::start))
        .route("/execs", get(execs::list))
        .route("/execs/{exec_id}", get(execs::show).delete(execs::remove))
        .route("/execs/{exec_id}/attach", post(exec::attach))
        .route("/execs/{exec_id}/input", post(execs::input))
        .route("/execs/{exec_id}/signal", post(execs::signal))
        .route("/execs/{exec_id}/resize", post(execs::resize));
    Router::new()
        .route("/bunkers", get(list))
        .route("/bunkers/{id}", get(show).put(start).delete(remove))
        .route("/bunkers/{id}/from-snapshot", put(snapshots::start))
        .route("/bunkers/{id}/snapshots/{snapshot_id}", put(snapshots::take))
        .route("/bunkers/{id}/pause", post(pause))
        .route("/bunkers/{id}/resume", post(resume))
        .route("/bunkers/{id}/fork", post(fork))
        .route("/bunkers/{id}/metrics", get(metrics))
        .nest("/bunkers/{id}", files.merge(execs))
        .route("/images", get(images::list))
        .route("/images/{id}", get(images::show).put(images::ensure).delete(images::forget))
        .route("/snapshots/{snapshot_id}", delete(snapshots::forget))
        .route("/snapshots/{snapshot_id}/store", post(snapshots::store))
        .route("/bridges/{name}", put(bridges::ensure).delete(bridges::remove))
        .fallback(unknown_route)
        .layer(middleware::from_fn(with_request_id))
        .with_state(Parts { supervisor, storage, images, snapshots })
}

/// A failure as it goes over the link.
#[derive(Debug)]
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

/// A JSON body, whatever its type is said to be.
pub(super) fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ErrorBody> {
    serde_json::from_slice(body)
        .map_err(|e| ErrorBody::new(ErrorCode::BadRequest, format!("not the expected body: {e}")))
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
    let spec: StartBunker = read_json(&body)?;
    Ok(Json(supervisor.start(id, spec, Origin::Image, request_id(&headers)).await?))
}

async fn fork(
    State(supervisor): Supervised,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ForkedBunker>, Failure> {
    let ask: ForkBunker = read_json(&body)?;
    Ok(Json(supervisor.fork(id, ask, request_id(&headers)).await?))
}

async fn pause(
    State(supervisor): Supervised,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Failure> {
    // Controllers of earlier versions send none.
    let limit = if body.is_empty() { PauseBunker::default() } else { read_json(&body)? };
    supervisor.pause(id, limit, request_id(&headers)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resume(
    State(supervisor): Supervised,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    supervisor.resume(id, request_id(&headers)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn metrics(
    State(supervisor): Supervised,
    Path(id): Path<BunkerId>,
) -> Result<Json<BunkerMetrics>, Failure> {
    Ok(Json(supervisor.metrics(id).await?))
}

async fn remove(State(supervisor): Supervised, Path(id): Path<BunkerId>) -> StatusCode {
    supervisor.remove(id).await;
    StatusCode::NO_CONTENT
}

async fn unknown_route() -> Failure {
    Failure(ErrorBody::new(ErrorCode::NotFound, "this worker has no such route"))
}

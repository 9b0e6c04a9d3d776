//! Snapshots, as controllers ask for them.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use http_body_util::{BodyExt as _, Limited};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, SnapshotId},
    worker::BunkerReport,
};
use scaibunker_snapshot::link::{StartFromSnapshot, StoredSnapshot, TakenSnapshot};
use serde::de::DeserializeOwned;

use super::routes::{Failure, read_json, request_id};
use crate::{
    snapshots::Snapshots,
    supervisor::{Origin, Supervisor},
};

/// Where the chunks of a full disk of the largest size are takes less.
const MAX_BODY_BYTES: usize = 1 << 30;

pub async fn start(
    State(supervisor): State<Arc<Supervisor>>,
    State(snapshots): State<Snapshots>,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<BunkerReport>, Failure> {
    let StartFromSnapshot { start, snapshot: from, goes_on } = read(body).await?;
    let origin = Origin::Snapshot { from, snapshots, goes_on };
    Ok(Json(supervisor.start(id, start, origin, request_id(&headers)).await?))
}

pub async fn take(
    State(supervisor): State<Arc<Supervisor>>,
    State(snapshots): State<Snapshots>,
    Path((bunker_id, id)): Path<(BunkerId, SnapshotId)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TakenSnapshot>, Failure> {
    let ask = read(body).await?;
    let request_id = request_id(&headers);
    Ok(Json(snapshots.take(&supervisor, bunker_id, id, ask, request_id).await?))
}

pub async fn store(
    State(snapshots): State<Snapshots>,
    Path(id): Path<SnapshotId>,
    body: Body,
) -> Result<Json<StoredSnapshot>, Failure> {
    Ok(Json(snapshots.store(id, read(body).await?).await?))
}

pub async fn forget(State(snapshots): State<Snapshots>, Path(id): Path<SnapshotId>) -> StatusCode {
    snapshots.forget(id);
    StatusCode::NO_CONTENT
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, ErrorBody> {
    let bytes = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let bytes = bytes.map_err(|error| ErrorBody::new(ErrorCode::BadRequest, error.to_string()))?;
    read_json(&bytes.to_bytes())
}

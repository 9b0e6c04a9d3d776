//! What a controller asks of a worker's images.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::ImageId,
    worker::{EnsureImage, ImageReport},
};

use super::routes::{Failure, read_json};
use crate::images::Images;

pub(super) async fn list(State(images): State<Images>) -> Json<Vec<ImageReport>> {
    Json(images.reports())
}

pub(super) async fn show(
    State(images): State<Images>,
    Path(id): Path<ImageId>,
) -> Result<Json<ImageReport>, Failure> {
    let report = images.report(id).ok_or_else(|| {
        ErrorBody::new(ErrorCode::NotFound, format!("this worker was not asked for image {id}"))
    })?;
    Ok(Json(report))
}

pub(super) async fn ensure(
    State(images): State<Images>,
    Path(id): Path<ImageId>,
    body: Bytes,
) -> Result<(StatusCode, Json<ImageReport>), Failure> {
    let ask: EnsureImage = read_json(&body)?;
    Ok((StatusCode::ACCEPTED, Json(images.ensure(id, ask))))
}

pub(super) async fn forget(State(images): State<Images>, Path(id): Path<ImageId>) -> StatusCode {
    images.forget(id);
    StatusCode::NO_CONTENT
}

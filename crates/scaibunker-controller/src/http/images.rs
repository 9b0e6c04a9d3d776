//! `/images`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    ids::ImageId,
    image::{CreateImage, CreatedImage, Image, ImageCacheRow, ImageScan, PatchImage, WarmCounts},
};

use super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    idempotency::IdempotencyKey,
    page::{ListQuery, Page},
    path::PathId,
    query::{NoQuery, Query},
};
use crate::{app::App, creation::Created, domain::actor::Actor};

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateImage>,
) -> Result<Made<Created<CreatedImage>>, Fault> {
    let created = app.images.create(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.image.id.to_string()), created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Image>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.images.images(&actor, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |image| image.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Image>, Fault> {
    Ok(Answer::ok(app.images.image(&actor, id).await?.image))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchImage>,
) -> Result<Answer<Image>, Fault> {
    Ok(Answer::ok(app.images.patch(&actor, id, patch).await?))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.images.delete(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn cache(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<ImageCacheRow>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    Ok(page.cut(app.images.cache(&actor, id).await?, |row| row.worker_id))
}

pub(super) async fn warm(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<WarmCounts>, Fault> {
    Ok(Answer::ok(app.images.warm(&actor, id).await?))
}

pub(super) async fn scan(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<ImageScan>, Fault> {
    Ok(Answer::ok(app.scans.show(&actor, id).await?))
}

pub(super) async fn request_scan(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<ImageScan>, Fault> {
    Ok(Answer(StatusCode::ACCEPTED, app.scans.request(&actor, id).await?))
}

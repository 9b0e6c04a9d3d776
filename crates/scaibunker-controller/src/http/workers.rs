//! `/workers`, as operators see it.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::WorkerId,
    worker::Worker,
};

use super::{
    answer::{Answer, ListAnswer},
    fault::Fault,
    page::{ListQuery, Page},
    path::PathId,
    query::{NoQuery, Query},
};
use crate::{app::App, workers};

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Worker>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    Ok(page.cut(app.fleet.workers(), |worker| worker.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    PathId(id): PathId<WorkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Worker>, Fault> {
    app.fleet.worker(id).map(Answer::ok).ok_or_else(|| {
        ErrorBody::new(ErrorCode::NotFound, format!("there is no worker {id}")).into()
    })
}

pub(super) async fn drain(
    State(app): State<Arc<App>>,
    PathId(id): PathId<WorkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Worker>, Fault> {
    Ok(Answer::ok(workers::set_drained(&app, id, true).await?))
}

pub(super) async fn resume(
    State(app): State<Arc<App>>,
    PathId(id): PathId<WorkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Worker>, Fault> {
    Ok(Answer::ok(workers::set_drained(&app, id, false).await?))
}

pub(super) async fn remove(
    State(app): State<Arc<App>>,
    PathId(id): PathId<WorkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    workers::remove(&app, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

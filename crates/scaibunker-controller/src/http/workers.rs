//! `/workers`, as operators see it.

use std::sync::Arc;

use axum::extract::State;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::WorkerId,
    permission::Permission,
    worker::Worker,
};

use super::{
    answer::{Answer, ListAnswer},
    bunkers::NoQuery,
    fault::Fault,
    images::ListQuery,
    page::Page,
    path::PathId,
    query::Query,
};
use crate::{app::App, domain::actor::Actor};

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Worker>, Fault> {
    actor.require(Permission::Admin)?;
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    Ok(page.cut(app.fleet.workers(), |worker| worker.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<WorkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Worker>, Fault> {
    actor.require(Permission::Admin)?;
    app.fleet.worker(id).map(Answer::ok).ok_or_else(|| {
        ErrorBody::new(ErrorCode::NotFound, format!("there is no worker {id}")).into()
    })
}

//! `/images`.

use std::sync::Arc;

use axum::extract::State;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::ImageId,
    image::Image,
    permission::Permission,
};
use serde::Deserialize;

use super::{
    answer::{Answer, ListAnswer},
    bunkers::NoQuery,
    fault::Fault,
    page::Page,
    path::PathId,
    query::Query,
};
use crate::{app::App, domain::actor::Actor};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListQuery {
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Image>, Fault> {
    actor.require(Permission::Create)?;
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    Ok(page.cut(app.fleet.images(), |image| image.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Image>, Fault> {
    actor.require(Permission::Create)?;
    let image = app.fleet.images().into_iter().find(|image| image.id == id);
    image.map(Answer::ok).ok_or_else(|| {
        ErrorBody::new(ErrorCode::ImageNotFound, format!("there is no image {id}")).into()
    })
}

//! `/images`.

use std::sync::Arc;

use axum::extract::State;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::ImageId,
    image::Image,
};

use super::{
    answer::{Answer, ListAnswer},
    fault::Fault,
    page::{ListQuery, Page},
    path::PathId,
    query::{NoQuery, Query},
};
use crate::app::App;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Image>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    Ok(page.cut(app.fleet.images(), |image| image.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    PathId(id): PathId<ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Image>, Fault> {
    let image = app.fleet.images().into_iter().find(|image| image.id == id);
    image.map(Answer::ok).ok_or_else(|| {
        ErrorBody::new(ErrorCode::ImageNotFound, format!("there is no image {id}")).into()
    })
}

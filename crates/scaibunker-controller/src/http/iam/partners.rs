//! `/v1/iam/partners`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    iam::{CreatePartner, Partner, PatchPartner},
    ids::PartnerId,
};

use super::super::{
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
    JsonBody(request): JsonBody<CreatePartner>,
) -> Result<Made<Created<Partner>>, Fault> {
    let created = app.iam.create_partner(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Partner>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.iam.partners(&actor, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |partner| partner.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<PartnerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Partner>, Fault> {
    Ok(Answer::ok(app.iam.partner(&actor, id).await?))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<PartnerId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchPartner>,
) -> Result<Answer<Partner>, Fault> {
    Ok(Answer::ok(app.iam.patch_partner(&actor, id, patch).await?))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<PartnerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.delete_partner(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

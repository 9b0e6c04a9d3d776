//! `/v1/iam/custom-roles`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    iam::{CreateCustomRole, CustomRole, PatchCustomRole},
    ids::CustomRoleId,
};

use super::super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    idempotency::IdempotencyKey,
    page::Page,
    path::PathId,
    query::{NoQuery, Query},
};
use super::TenantListQuery;
use crate::{app::App, creation::Created, domain::actor::Actor};

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateCustomRole>,
) -> Result<Made<Created<CustomRole>>, Fault> {
    let created = app.iam.create_custom_role(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<TenantListQuery>,
) -> Result<ListAnswer<CustomRole>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.iam.custom_roles(&actor, query.tenant_id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |custom_role| custom_role.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<CustomRoleId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<CustomRole>, Fault> {
    Ok(Answer::ok(app.iam.custom_role(&actor, id).await?))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<CustomRoleId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchCustomRole>,
) -> Result<Answer<CustomRole>, Fault> {
    Ok(Answer::ok(app.iam.patch_custom_role(&actor, id, patch).await?))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<CustomRoleId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.delete_custom_role(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

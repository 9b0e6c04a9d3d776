//! `/v1/iam/custom-roles`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use scaibunker_api::{
    iam::{CreateCustomRole, CustomRole, PatchCustomRole},
    ids::CustomRoleId,
};

use super::super::{
    answer::{Answer, ListAnswer},
    body::JsonBody,
    bunkers::{NoQuery, idempotency_key},
    fault::Fault,
    page::Page,
    path::PathId,
    query::Query,
};
use super::TenantListQuery;
use crate::{app::App, creation::Created, domain::actor::Actor};

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CreateCustomRole>,
) -> Result<Answer<Created<CustomRole>>, Fault> {
    let key = idempotency_key(&headers)?;
    let created = app.iam.create_custom_role(&actor, request, key).await?;
    Ok(Answer(StatusCode::CREATED, created))
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

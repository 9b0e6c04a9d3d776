//! `/v1/iam/users` and `/v1/users`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    iam::{CreateUser, ModulePermissions, PatchUser, User},
    ids::UserId,
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
use crate::{app::App, creation::Created, domain::actor::Actor, store::UserFilter};

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateUser>,
) -> Result<Made<Created<User>>, Fault> {
    let created = app.iam.create_user(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<TenantListQuery>,
) -> Result<ListAnswer<User>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (tenant, before) = (query.tenant_id, page.after);
    let filter = UserFilter { tenant, before, ..UserFilter::default() };
    let found = app.iam.users(&actor, &filter, page.limit + 1).await?;
    Ok(page.answer(found, |user| user.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<UserId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<User>, Fault> {
    Ok(Answer::ok(app.iam.user(&actor, id).await?))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<UserId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchUser>,
) -> Result<Answer<User>, Fault> {
    Ok(Answer::ok(app.iam.patch_user(&actor, id, patch).await?))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<UserId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.delete_user(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn grant(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<UserId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(granted): JsonBody<ModulePermissions>,
) -> Result<Answer<User>, Fault> {
    Ok(Answer::ok(app.iam.grant(&actor, id, granted.module_permissions).await?))
}

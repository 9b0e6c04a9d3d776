//! `/v1/iam/groups`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    iam::{CreateGroup, Group, PatchGroup, User},
    ids::{GroupId, UserId},
};

use super::super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    idempotency::IdempotencyKey,
    page::{ListQuery, Page},
    path::{PathId, PathPair},
    query::{NoQuery, Query},
};
use super::TenantListQuery;
use crate::{app::App, creation::Created, domain::actor::Actor};

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateGroup>,
) -> Result<Made<Created<Group>>, Fault> {
    let created = app.iam.create_group(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<TenantListQuery>,
) -> Result<ListAnswer<Group>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.iam.groups(&actor, query.tenant_id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |group| group.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<GroupId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Group>, Fault> {
    Ok(Answer::ok(app.iam.group(&actor, id).await?))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<GroupId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchGroup>,
) -> Result<Answer<Group>, Fault> {
    Ok(Answer::ok(app.iam.patch_group(&actor, id, patch).await?))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<GroupId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.delete_group(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn members(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<GroupId>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<User>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.iam.members(&actor, id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |user| user.id))
}

pub(super) async fn add_member(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathPair(id, user_id): PathPair<GroupId, UserId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.add_member(&actor, id, user_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_member(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathPair(id, user_id): PathPair<GroupId, UserId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.remove_member(&actor, id, user_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

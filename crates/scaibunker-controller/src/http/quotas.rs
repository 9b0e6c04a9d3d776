//! `/quota-profiles`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{delete, get},
};
use scaibunker_api::{
    ids::{QuotaAssignmentId, QuotaProfileId},
    quota::{
        Assignment, CreateAssignment, CreateQuotaProfile, PatchQuotaProfile, ProfileUsage,
        QuotaProfile,
    },
};

use super::{
    answer::{Answer, ListAnswer},
    body::JsonBody,
    bunkers::{NoQuery, idempotency_key},
    fault::Fault,
    iam::TenantListQuery,
    images::ListQuery,
    page::Page,
    path::{PathId, PathPair},
    query::Query,
};
use crate::{app::App, creation::Created, domain::actor::Actor};

/// The routes, below the module's prefix.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/quota-profiles", get(list).post(create))
        .route("/quota-profiles/usage", get(usage))
        .route("/quota-profiles/{id}", get(show).patch(patch).delete(remove))
        .route("/quota-profiles/{id}/assignments", get(assignments).post(assign))
        .route("/quota-profiles/{id}/assignments/{assignment_id}", delete(unassign))
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CreateQuotaProfile>,
) -> Result<Answer<Created<QuotaProfile>>, Fault> {
    let key = idempotency_key(&headers)?;
    let created = app.quotas.create_profile(&actor, request, key).await?;
    Ok(Answer(StatusCode::CREATED, created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<TenantListQuery>,
) -> Result<ListAnswer<QuotaProfile>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found =
        app.quotas.profiles(&actor, query.tenant_id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |profile| profile.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<QuotaProfileId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<QuotaProfile>, Fault> {
    Ok(Answer::ok(app.quotas.profile(&actor, id).await?))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<QuotaProfileId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchQuotaProfile>,
) -> Result<Answer<QuotaProfile>, Fault> {
    Ok(Answer::ok(app.quotas.patch_profile(&actor, id, patch).await?))
}

pub(super) async fn remove(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<QuotaProfileId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.quotas.delete_profile(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn usage(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<ListAnswer<ProfileUsage>, Fault> {
    // As many rows as profiles apply to one user: they are no pages.
    Ok(ListAnswer { data: app.quotas.usage(&actor).await?, next_cursor: None })
}

pub(super) async fn assign(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<QuotaProfileId>,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CreateAssignment>,
) -> Result<Answer<Created<Assignment>>, Fault> {
    let key = idempotency_key(&headers)?;
    let created = app.quotas.assign(&actor, id, request, key).await?;
    Ok(Answer(StatusCode::CREATED, created))
}

pub(super) async fn assignments(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<QuotaProfileId>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Assignment>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.quotas.assignments(&actor, id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |assignment| assignment.id))
}

pub(super) async fn unassign(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathPair(id, assignment_id): PathPair<QuotaProfileId, QuotaAssignmentId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.quotas.unassign(&actor, id, assignment_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

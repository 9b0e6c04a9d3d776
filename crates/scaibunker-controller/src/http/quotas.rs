//! `/quota-profiles`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    error::ErrorCode as Code,
    ids::{QuotaAssignmentId, QuotaProfileId},
    permission::Permission,
    quota::{
        Assignment, CreateAssignment, CreateQuotaProfile, PatchQuotaProfile, ProfileUsage,
        QuotaProfile,
    },
};

use super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    iam::TenantListQuery,
    idempotency::IdempotencyKey,
    page::{ListQuery, Page},
    path::{PathId, PathPair},
    query::{NoQuery, Query},
    route::{
        Access::{Authenticated, Needs, Reads},
        Content, Route,
    },
    routes::api,
};
use crate::{app::App, creation::Created, domain::actor::Actor};

/// The routes.
pub(super) fn routes() -> Vec<Route> {
    let profile = |route: Route| route.param::<QuotaProfileId>("id");
    vec![
        Route::get(
            api!("/quota-profiles"),
            "list_quota_profiles",
            "Quota profiles of the platform and of your tenants",
            Reads(Permission::AdminTenant),
            list,
        )
        .query::<TenantListQuery>()
        .lists::<QuotaProfile>(),
        Route::post(
            api!("/quota-profiles"),
            "create_quota_profile",
            "Make a quota profile",
            Needs(Permission::AdminTenant),
            create,
        )
        .with_idempotency()
        .body::<CreateQuotaProfile>()
        .answers::<QuotaProfile>(201),
        Route::get(
            api!("/quota-profiles/usage"),
            "get_quota_usage",
            "What is used and left of each profile that applies to you",
            Authenticated,
            usage,
        )
        .lists::<ProfileUsage>(),
        profile(Route::get(
            api!("/quota-profiles/{id}"),
            "get_quota_profile",
            "A quota profile",
            Reads(Permission::AdminTenant),
            show,
        ))
        .answers::<QuotaProfile>(200),
        profile(Route::patch(
            api!("/quota-profiles/{id}"),
            "update_quota_profile",
            "Change a quota profile's name, description or caps",
            Needs(Permission::AdminTenant),
            patch,
        ))
        .body::<PatchQuotaProfile>()
        .answers::<QuotaProfile>(200),
        profile(Route::delete(
            api!("/quota-profiles/{id}"),
            "delete_quota_profile",
            "Delete a quota profile that is assigned to nobody",
            Needs(Permission::AdminTenant),
            remove,
        ))
        .with_answer(204, Content::Nothing)
        .fails(&[Code::InUse]),
        profile(Route::get(
            api!("/quota-profiles/{id}/assignments"),
            "list_quota_assignments",
            "Whom a quota profile is assigned to",
            Reads(Permission::AdminTenant),
            assignments,
        ))
        .query::<ListQuery>()
        .lists::<Assignment>(),
        profile(Route::post(
            api!("/quota-profiles/{id}/assignments"),
            "create_quota_assignment",
            "Assign a quota profile to a user, a group or a tenant",
            Needs(Permission::AdminTenant),
            assign,
        ))
        .with_idempotency()
        .body::<CreateAssignment>()
        .answers::<Assignment>(201)
        .fails(&[Code::AlreadyExists]),
        profile(Route::delete(
            api!("/quota-profiles/{id}/assignments/{assignment_id}"),
            "delete_quota_assignment",
            "End an assignment",
            Needs(Permission::AdminTenant),
            unassign,
        ))
        .param::<QuotaAssignmentId>("assignment_id")
        .with_answer(204, Content::Nothing),
    ]
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateQuotaProfile>,
) -> Result<Made<Created<QuotaProfile>>, Fault> {
    let created = app.quotas.create_profile(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<TenantListQuery>,
) -> Result<ListAnswer<QuotaProfile>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.quotas.profiles(&actor, query.tenant_id, page.after, page.limit + 1).await?;
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
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateAssignment>,
) -> Result<Made<Created<Assignment>>, Fault> {
    let created = app.quotas.assign(&actor, id, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
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

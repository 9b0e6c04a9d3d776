//! `/v1/iam/tenants`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    iam::{CreateTenant, PatchTenant, Tenant},
    ids::{PartnerId, TenantId},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    idempotency::IdempotencyKey,
    page::Page,
    path::PathId,
    query::{NoQuery, Query},
};
use crate::{app::App, creation::Created, domain::actor::Actor};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListTenantsQuery {
    /// Objects in a page; 50 unless given.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only this partner's.
    partner_id: Option<PartnerId>,
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateTenant>,
) -> Result<Made<Created<Tenant>>, Fault> {
    let created = app.iam.create_tenant(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListTenantsQuery>,
) -> Result<ListAnswer<Tenant>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.iam.tenants(&actor, query.partner_id, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |tenant| tenant.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<TenantId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Tenant>, Fault> {
    Ok(Answer::ok(app.iam.tenant(&actor, id).await?))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<TenantId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchTenant>,
) -> Result<Answer<Tenant>, Fault> {
    Ok(Answer::ok(app.iam.patch_tenant(&actor, id, patch).await?))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<TenantId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.delete_tenant(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

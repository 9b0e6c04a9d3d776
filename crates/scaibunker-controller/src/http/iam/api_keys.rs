//! `/v1/iam/api-keys`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use scaibunker_api::{
    iam::{ApiKey, CreateApiKey, NewApiKey},
    ids::{ApiKeyId, TenantId, UserId},
};
use serde::Deserialize;

use super::super::{
    answer::{Answer, ListAnswer},
    body::JsonBody,
    bunkers::{NoQuery, idempotency_key},
    fault::Fault,
    page::Page,
    path::PathId,
    query::Query,
};
use crate::{app::App, creation::Created, domain::actor::Actor};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListApiKeysQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Only those of this tenant's users.
    tenant_id: Option<TenantId>,
    /// Only this user's.
    user_id: Option<UserId>,
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CreateApiKey>,
) -> Result<Answer<Created<NewApiKey>>, Fault> {
    let key = idempotency_key(&headers)?;
    let created = app.iam.create_api_key(&actor, request, key).await?;
    Ok(Answer(StatusCode::CREATED, created))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListApiKeysQuery>,
) -> Result<ListAnswer<ApiKey>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let of = (query.tenant_id, query.user_id);
    let found = app.iam.api_keys(&actor, of, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |api_key| api_key.id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ApiKeyId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<ApiKey>, Fault> {
    Ok(Answer::ok(app.iam.api_key(&actor, id).await?))
}

pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<ApiKeyId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.iam.revoke_api_key(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

//! `/v1/iam` and `/v1/users`.

mod api_keys;
mod custom_roles;
mod groups;
mod partners;
mod tenants;
mod users;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    routing::{get, put},
};
use scaibunker_api::{iam::Me, ids::TenantId};
use serde::Deserialize;

use super::{answer::Answer, bunkers::NoQuery, fault::Fault, query::Query};
use crate::{app::App, domain::actor::Actor};

/// The routes, from the root on.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/iam/me", get(me))
        .route("/v1/iam/partners", get(partners::list).post(partners::create))
        .route(
            "/v1/iam/partners/{id}",
            get(partners::show).patch(partners::patch).delete(partners::delete),
        )
        .route("/v1/iam/tenants", get(tenants::list).post(tenants::create))
        .route(
            "/v1/iam/tenants/{id}",
            get(tenants::show).patch(tenants::patch).delete(tenants::delete),
        )
        .route("/v1/iam/users", get(users::list).post(users::create))
        .route(
            "/v1/iam/users/{id}",
            get(users::show).patch(users::patch).delete(users::delete),
        )
        .route("/v1/users/{id}/module-permissions", put(users::grant))
        .route("/v1/iam/groups", get(groups::list).post(groups::create))
        .route(
            "/v1/iam/groups/{id}",
            get(groups::show).patch(groups::patch).delete(groups::delete),
        )
        .route("/v1/iam/groups/{id}/members", get(groups::members))
        .route(
            "/v1/iam/groups/{id}/members/{user_id}",
            put(groups::add_member).delete(groups::remove_member),
        )
        .route("/v1/iam/api-keys", get(api_keys::list).post(api_keys::create))
        .route("/v1/iam/api-keys/{id}", get(api_keys::show).delete(api_keys::revoke))
        .route("/v1/iam/custom-roles", get(custom_roles::list).post(custom_roles::create))
        .route(
            "/v1/iam/custom-roles/{id}",
            get(custom_roles::show).patch(custom_roles::patch).delete(custom_roles::delete),
        )
}

/// The query of a list of things that tenants have.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TenantListQuery {
    pub limit: Option<usize>,
    pub cursor: Option<String>,
    /// Only what this tenant has.
    pub tenant_id: Option<TenantId>,
}

async fn me(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Me>, Fault> {
    Ok(Answer::ok(app.iam.me(&actor).await?))
}

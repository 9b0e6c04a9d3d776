//! `/v1/iam` and `/v1/users`.

mod api_keys;
mod custom_roles;
mod groups;
mod partners;
pub(super) mod routes;
mod tenants;
mod users;

use std::sync::Arc;

use axum::extract::State;
use scaibunker_api::{iam::Me, ids::TenantId};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    answer::Answer,
    fault::Fault,
    query::{NoQuery, Query},
};
use crate::{app::App, domain::actor::Actor};

/// The query of a list of things that tenants have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TenantListQuery {
    /// Objects in a page; 50 unless given.
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
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

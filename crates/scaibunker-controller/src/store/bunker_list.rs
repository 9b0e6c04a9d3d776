//! Lists of bunkers, newest first, a page at a time.

use scaibunker_api::{
    bunker::{BunkerStatus, LifecycleMode},
    ids::BunkerId,
};
use sqlx::{QueryBuilder, Sqlite};

use super::{
    Store, StoreError,
    bunker_row::{BunkerRow, bunkers},
};
use crate::domain::{actor::Scope, bunker::Bunker};

/// A label that a bunker must carry, with this value if one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    pub name: String,
    pub value: Option<String>,
}

/// Which bunkers are asked for. Empty lists and `None` let everything pass.
#[derive(Debug, Clone, Default)]
pub struct BunkerFilter {
    pub statuses: Vec<BunkerStatus>,
    pub lifecycle: Option<LifecycleMode>,
    /// All of them.
    pub labels: Vec<LabelFilter>,
    /// Only bunkers made before this one.
    pub before: Option<BunkerId>,
}

impl Store {
    /// The newest `limit` bunkers in `scope` that pass the filter.
    pub async fn list_bunkers(
        &self,
        scope: Scope,
        filter: &BunkerFilter,
        limit: usize,
    ) -> Result<Vec<Bunker>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM bunkers WHERE 1 = 1");
        within(&mut query, scope);
        if !filter.statuses.is_empty() {
            query.push(" AND status IN (");
            let mut list = query.separated(", ");
            for status in &filter.statuses {
                list.push_bind(status.as_str());
            }
            query.push(")");
        }
        if let Some(mode) = filter.lifecycle {
            query.push(" AND lifecycle_mode = ").push_bind(mode.as_str());
        }
        for label in &filter.labels {
            query
                .push(" AND EXISTS (SELECT 1 FROM bunker_labels WHERE bunker_id = bunkers.id")
                .push(" AND name = ")
                .push_bind(&label.name);
            if let Some(value) = &label.value {
                query.push(" AND value = ").push_bind(value);
            }
            query.push(")");
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before.to_string());
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows: Vec<BunkerRow> = query
            .build_query_as()
            .fetch_all(&self.readers)
            .await
            .map_err(StoreError::query("list bunkers"))?;
        bunkers(rows)
    }
}

fn within(query: &mut QueryBuilder<Sqlite>, scope: Scope) {
    let (tenant, owner) = match scope {
        Scope::Everything => return,
        Scope::Tenant(tenant) => (tenant, None),
        Scope::Own(tenant, owner) => (tenant, Some(owner)),
    };
    query.push(" AND tenant_id = ").push_bind(tenant.to_string());
    if let Some(owner) = owner {
        query.push(" AND owner_id = ").push_bind(owner.to_string());
    }
}

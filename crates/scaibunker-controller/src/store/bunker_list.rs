//! Lists of bunkers, newest first, a page at a time.

use scaibunker_api::{
    bunker::{BunkerStatus, LifecycleMode},
    ids::BunkerId,
};

use super::{Store, StoreError, bunker_row::bunkers, select::Select};
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
        let mut query = Select::new("SELECT * FROM bunkers WHERE 1 = 1");
        query.in_scope(scope, " AND owner_id = ");
        if !filter.statuses.is_empty() {
            query.push(" AND status").within(filter.statuses.iter().map(|status| status.as_str()));
        }
        if let Some(mode) = filter.lifecycle {
            query.push(" AND lifecycle_mode = ").bind(mode.as_str());
        }
        for label in &filter.labels {
            query
                .push(" AND EXISTS (SELECT 1 FROM bunker_labels WHERE bunker_id = bunkers.id")
                .push(" AND name = ")
                .bind(label.name.as_str());
            if let Some(value) = &label.value {
                query.push(" AND value = ").bind(value.as_str());
            }
            query.push(")");
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").bind(before.to_string());
        }
        query.push(" ORDER BY id DESC").limit(limit);
        bunkers(query.fetch_all(&self.readers, "list bunkers").await?)
    }
}

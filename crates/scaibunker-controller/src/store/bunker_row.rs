//! A bunker's row and the bunker it stands for.

use scaibunker_api::bunker::BunkerStatus;

use super::{StoreError, from_json, from_micros, parsed};
use crate::domain::bunker::{Bunker, Life};

#[derive(sqlx::FromRow)]
pub(super) struct BunkerRow {
    id: String,
    tenant_id: String,
    owner_id: String,
    worker_id: String,
    generation: i64,
    status: String,
    status_reason: Option<String>,
    buckets: String,
    starter_id: Option<String>,
    spec: String,
    created_at: i64,
    started_at: Option<i64>,
    last_active_at: Option<i64>,
    terminated_at: Option<i64>,
    ip_address: Option<String>,
    paused_at: Option<i64>,
    evicted_to: Option<String>,
}

impl TryFrom<BunkerRow> for Bunker {
    type Error = StoreError;

    fn try_from(row: BunkerRow) -> Result<Self, StoreError> {
        let time = |column, micros: Option<i64>| {
            micros.map(|micros| from_micros(column, micros)).transpose()
        };
        let status = BunkerStatus::from_text(&row.status)
            .ok_or(row.status)
            .map_err(StoreError::corrupt("bunkers.status"))?;
        let life = Life {
            status,
            status_reason: row.status_reason,
            started_at: time("bunkers.started_at", row.started_at)?,
            ip_address: row
                .ip_address
                .map(|text| parsed("bunkers.ip_address", &text))
                .transpose()?,
            terminated_at: time("bunkers.terminated_at", row.terminated_at)?,
            paused_at: time("bunkers.paused_at", row.paused_at)?,
            evicted_to: row
                .evicted_to
                .map(|text| parsed("bunkers.evicted_to", &text))
                .transpose()?,
        };
        let mut bunker = Self::placed(
            parsed("bunkers.id", &row.id)?,
            (
                parsed("bunkers.tenant_id", &row.tenant_id)?,
                parsed("bunkers.owner_id", &row.owner_id)?,
            ),
            parsed("bunkers.worker_id", &row.worker_id)?,
            from_json("bunkers.buckets", &row.buckets)?,
            from_json("bunkers.spec", &row.spec)?,
            from_micros("bunkers.created_at", row.created_at)?,
        );
        bunker.starter = row.starter_id.map(|id| parsed("bunkers.starter_id", &id)).transpose()?;
        bunker.last_active_at = time("bunkers.last_active_at", row.last_active_at)?;
        Ok(bunker.with_stored_life(life, row.generation))
    }
}

pub(super) fn bunkers(rows: Vec<BunkerRow>) -> Result<Vec<Bunker>, StoreError> {
    rows.into_iter().map(Bunker::try_from).collect()
}

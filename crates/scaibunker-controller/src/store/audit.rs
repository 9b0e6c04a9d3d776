//! The audit log. Entries are found by their ids alone: those are in the order of time.

use std::{fmt::Display, str::FromStr};

use jiff::Timestamp;
use scaibunker_api::{
    audit::AuditEntry,
    error::ErrorCode,
    ids::{EventId, TenantId, UserId},
};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Store, StoreError, from_micros, parsed, select::Select, storable, to_micros};
use crate::domain::actor::Scope;

const COLUMNS: &str = "id, at, request_id, actor_id, api_key_id, tenant_id, action, resource_id, \
     ip, status, error";
const COLUMN_COUNT: usize = 11;

/// Lowest HTTP status of a refusal.
const REFUSED: i64 = 400;

/// Rows that one statement deletes: others wait meanwhile.
const DELETED_AT_ONCE: i64 = 2000;

/// Which entries are asked for; `None` lets everything pass.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub tenant_id: Option<TenantId>,
    pub actor_id: Option<UserId>,
    pub action: Option<String>,
    pub resource_id: Option<String>,
    pub is_refused: Option<bool>,
    /// To the millisecond, inclusive.
    pub since: Option<Timestamp>,
    /// To the millisecond, exclusive.
    pub until: Option<Timestamp>,
    /// Only entries before this one.
    pub before: Option<EventId>,
}

#[derive(sqlx::FromRow)]
struct AuditRow {
    id: String,
    at: i64,
    request_id: String,
    actor_id: Option<String>,
    api_key_id: Option<String>,
    tenant_id: Option<String>,
    action: String,
    resource_id: Option<String>,
    ip: String,
    status: i64,
    error: Option<String>,
}

impl Store {
    /// Writes entries, all or none.
    pub async fn insert_audit(&self, entries: &[&AuditEntry]) -> Result<(), StoreError> {
        let mut text = format!("INSERT INTO audit_log ({COLUMNS}) VALUES ");
        for row in 0..entries.len() {
            text.push_str(if row == 0 { "(" } else { ", (" });
            for column in 1..=COLUMN_COUNT {
                text.push_str(if column == 1 { "$" } else { ", $" });
                text.push_str(&(row * COLUMN_COUNT + column).to_string());
            }
            text.push(')');
        }
        // Literals and numbers of this program.
        let mut query = sqlx::query(AssertSqlSafe(text));
        for entry in entries {
            query = query
                .bind(entry.id.to_string())
                .bind(to_micros(entry.at))
                .bind(entry.request_id.to_string())
                .bind(entry.actor_id.map(|id| id.to_string()))
                .bind(entry.api_key_id.map(|id| id.to_string()))
                .bind(entry.tenant_id.map(|id| id.to_string()))
                .bind(entry.action.clone())
                .bind(entry.resource_id.as_deref().map(storable))
                .bind(entry.ip.to_string())
                .bind(i64::from(entry.status))
                .bind(entry.error.map(|code| code.as_str().to_owned()));
        }
        query.execute(&self.writer).await.map_err(StoreError::query("write to the audit log"))?;
        Ok(())
    }

    /// The newest `limit` entries in `scope` that pass the filter.
    pub async fn list_audit(
        &self,
        scope: Scope,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let mut query = Select::new("SELECT * FROM audit_log WHERE 1 = 1");
        query.in_scope(scope, " AND actor_id = ");
        let equal = [
            (" AND tenant_id = ", filter.tenant_id.map(|id| id.to_string())),
            (" AND actor_id = ", filter.actor_id.map(|id| id.to_string())),
            (" AND action = ", filter.action.clone()),
            (" AND resource_id = ", filter.resource_id.clone()),
            (" AND id >= ", filter.since.map(|time| first_id_at(time).to_string())),
            (" AND id < ", filter.until.map(|time| first_id_at(time).to_string())),
            (" AND id < ", filter.before.map(|id| id.to_string())),
        ];
        for (condition, value) in equal {
            if let Some(value) = value {
                query.push(condition).bind(value);
            }
        }
        if let Some(is_refused) = filter.is_refused {
            query.push(if is_refused { " AND status >= " } else { " AND status < " }).bind(REFUSED);
        }
        query.push(" ORDER BY id DESC").limit(limit);
        let rows: Vec<AuditRow> = query.fetch_all(&self.readers, "read the audit log").await?;
        rows.into_iter().map(AuditEntry::try_from).collect()
    }

    /// Removes the entries of before `time`; how many there were.
    pub async fn forget_audit_before(&self, time: Timestamp) -> Result<u64, StoreError> {
        let end = first_id_at(time).to_string();
        let mut removed = 0;
        loop {
            let done = sqlx::query(
                "DELETE FROM audit_log WHERE id IN \
                 (SELECT id FROM audit_log WHERE id < $1 ORDER BY id LIMIT $2)",
            )
            .bind(&end)
            .bind(DELETED_AT_ONCE)
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("shorten the audit log"))?;
            if done.rows_affected() == 0 {
                return Ok(removed);
            }
            removed += done.rows_affected();
        }
    }
}

/// The lowest id that an entry of this millisecond can have.
fn first_id_at(time: Timestamp) -> EventId {
    let ms = u128::try_from(time.as_millisecond()).unwrap_or(0);
    EventId::from(Uuid::from_u128(ms << 80))
}

fn optional<T: FromStr<Err: Display>>(
    column: &'static str,
    text: Option<String>,
) -> Result<Option<T>, StoreError> {
    text.map(|text| parsed(column, &text)).transpose()
}

impl TryFrom<AuditRow> for AuditEntry {
    type Error = StoreError;

    fn try_from(row: AuditRow) -> Result<Self, StoreError> {
        let status = u16::try_from(row.status).map_err(StoreError::corrupt("audit_log.status"))?;
        Ok(Self {
            id: parsed("audit_log.id", &row.id)?,
            at: from_micros("audit_log.at", row.at)?,
            request_id: parsed("audit_log.request_id", &row.request_id)?,
            actor_id: optional("audit_log.actor_id", row.actor_id)?,
            api_key_id: optional("audit_log.api_key_id", row.api_key_id)?,
            tenant_id: optional("audit_log.tenant_id", row.tenant_id)?,
            action: row.action,
            resource_id: row.resource_id,
            ip: parsed("audit_log.ip", &row.ip)?,
            status,
            // A code of an earlier version may be gone by now.
            error: row.error.as_deref().and_then(ErrorCode::from_text),
        })
    }
}

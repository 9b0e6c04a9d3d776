//! The database, SQLite or PostgreSQL. Nothing else knows SQL.
//!
//! Every statement uses `$1`-style parameters and plain column types (booleans and times are BIGINT), so
//! that one text serves both; what differs is in `database`. A row that changes by rule carries a
//! generation; a write that finds another one than its reader saw does nothing and says so.

mod accounts;
mod api_keys;
mod audit;
mod availability_groups;
mod bootstrap;
mod bridges;
mod bunker_list;
mod bunker_row;
mod bunkers;
mod changes;
mod controllers;
mod counts;
mod custom_roles;
mod database;
mod grouped_writes;
mod groups;
mod idempotency;
mod image_cache;
mod image_scans;
mod images;
mod packs;
mod partners;
mod quotas;
mod select;
mod snapshots;
mod tenants;
#[cfg(test)]
pub(crate) mod tests;
mod users;
mod workers;

use std::sync::Arc;

use jiff::Timestamp;
use scaibunker_api::iam::AccountStatus;
use sqlx::{AnyPool, migrate::MigrateError};

pub use self::{
    audit::AuditFilter,
    bunker_list::{BunkerFilter, LabelFilter},
    changes::{Inserted, Removed, Updated},
    controllers::SeenController,
    database::{DatabaseUrl, InvalidDatabaseUrl},
    groups::GroupRefused,
    idempotency::{IdempotencyKey, StoredKey},
    image_cache::CacheRow,
    image_scans::ScanLease,
    images::ImageFilter,
    packs::FinishedSnapshot,
    users::{StoredUser, UserFilter},
};

use self::grouped_writes::GroupedWrites;

/// The database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The text does not hold the URL's password.
    #[error("cannot open the database {database}")]
    Open { database: String, source: sqlx::Error },
    #[error("cannot bring the database to this version's schema")]
    Migrate(#[source] MigrateError),
    #[error("the database failed to {action}")]
    Query { action: &'static str, source: sqlx::Error },
    #[error("the database holds something unreadable in {column}: {reason}")]
    Corrupt { column: &'static str, reason: String },
}

impl StoreError {
    fn query(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Query { action, source }
    }

    /// Whether the database cannot be reached or is not serving at the moment, so that the same may
    /// work in a while.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        /// Shutting down, crashed, starting, out of connections (PostgreSQL's appendix A).
        const PASSING: [&str; 4] = ["57P01", "57P02", "57P03", "53300"];
        match self {
            Self::Query { source, .. } | Self::Open { source, .. } => match source {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
                sqlx::Error::Database(error) => {
                    error.code().is_some_and(|code| PASSING.contains(&&*code))
                }
                _ => false,
            },
            Self::Migrate(_) | Self::Corrupt { .. } => false,
        }
    }

    fn corrupt<E: std::fmt::Display>(column: &'static str) -> impl FnOnce(E) -> Self {
        move |reason| Self::Corrupt { column, reason: reason.to_string() }
    }
}

/// A handle to the database; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    writer: AnyPool,
    readers: AnyPool,
    /// What single bunkers' changes go through.
    grouped: Arc<GroupedWrites>,
}

impl Store {
    /// Answers whether the database does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1")
            .execute(&self.readers)
            .await
            .map_err(StoreError::query("answer a ping"))?;
        Ok(())
    }

    fn new(writer: AnyPool, readers: AnyPool, lanes: usize) -> Self {
        let grouped = Arc::new(GroupedWrites::new(writer.clone(), lanes));
        Self { writer, readers, grouped }
    }

    /// Closes all connections; what was acknowledged stays.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Text as both databases take it: PostgreSQL's has no NUL, and what workers and clients say may.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn to_micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

fn from_micros(column: &'static str, micros: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(StoreError::corrupt(column))
}

fn to_json<T: serde::Serialize>(column: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::corrupt(column))
}

fn from_json<T: serde::de::DeserializeOwned>(
    column: &'static str,
    json: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(StoreError::corrupt(column))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    column: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    text.parse().map_err(StoreError::corrupt(column))
}

fn status_text(status: AccountStatus) -> &'static str {
    match status {
        AccountStatus::Active => "active",
        AccountStatus::Suspended => "suspended",
    }
}

fn status_from(column: &'static str, text: &str) -> Result<AccountStatus, StoreError> {
    match text {
        "active" => Ok(AccountStatus::Active),
        "suspended" => Ok(AccountStatus::Suspended),
        other => Err(StoreError::corrupt(column)(other)),
    }
}

//! The database. Nothing else knows SQL.
//!
//! Every statement uses `$1`-style parameters and plain column types, so that the same text serves
//! PostgreSQL. A row that changes by rule carries a generation; a write that finds another one
//! than its reader saw does nothing and says so.

mod bunker_list;
mod bunker_row;
mod bunkers;
mod idempotency;
mod identity;
mod workers;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use self::{
    bunker_list::{BunkerFilter, LabelFilter},
    bunkers::Inserted,
    idempotency::{IdempotencyKey, StoredKey},
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections that read; each is a thread of its own.
const READERS: u32 = 4;

const STATEMENTS_PREPARED: usize = 256;

/// The database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {}", path.display())]
    Open { path: PathBuf, source: sqlx::Error },
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

    fn corrupt<E: std::fmt::Display>(column: &'static str) -> impl FnOnce(E) -> Self {
        move |reason| Self::Corrupt { column, reason: reason.to_string() }
    }
}

/// A handle to the database; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    /// SQLite takes one writer at a time: with one connection writers queue here, in order,
    /// instead of polling a lock.
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens the database file, creating it if it is missing, and migrates it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        // With a write-ahead log and NORMAL, a commit is in the kernel's hands before it is
        // acknowledged: it outlives a killed process. Only a power cut can undo the last few
        // commits, and takes the bunkers they speak of with it.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .statement_cache_capacity(STATEMENTS_PREPARED);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .min_connections(connections)
                .max_connections(connections)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
        MIGRATIONS.run(&writer).await.map_err(StoreError::Migrate)?;
        let readers = pool(READERS).connect_with(options).await.map_err(failed)?;
        Ok(Self { writer, readers })
    }

    /// Answers whether the database does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1")
            .execute(&self.readers)
            .await
            .map_err(StoreError::query("answer a ping"))?;
        Ok(())
    }

    /// Closes all connections; what was acknowledged is in the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
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

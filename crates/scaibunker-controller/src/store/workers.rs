//! Workers.

use jiff::Timestamp;
use scaibunker_api::{ids::WorkerId, worker::Capacity};

use super::{Store, StoreError, from_json, from_micros, parsed, to_json, to_micros};
use crate::domain::worker::WorkerRecord;

#[derive(sqlx::FromRow)]
struct WorkerRow {
    id: String,
    name: String,
    version: String,
    engine: String,
    cpu_millicores: i64,
    memory_mb: i64,
    disk_mb: i64,
    images: String,
    last_heartbeat_at: i64,
}

impl TryFrom<WorkerRow> for WorkerRecord {
    type Error = StoreError;

    fn try_from(row: WorkerRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed("workers.id", &row.id)?,
            name: row.name,
            version: row.version,
            engine: row.engine,
            capacity: Capacity {
                cpu_millicores: unsigned("workers.cpu_millicores", row.cpu_millicores)?,
                memory_mb: unsigned("workers.memory_mb", row.memory_mb)?,
                disk_mb: unsigned("workers.disk_mb", row.disk_mb)?,
            },
            images: from_json("workers.images", &row.images)?,
            last_heartbeat: from_micros("workers.last_heartbeat_at", row.last_heartbeat_at)?,
        })
    }
}

pub(super) fn unsigned<T: TryFrom<i64, Error: std::fmt::Display>>(
    column: &'static str,
    number: i64,
) -> Result<T, StoreError> {
    T::try_from(number).map_err(StoreError::corrupt(column))
}

/// Numbers past the column's range, which only a lying worker sends, become its end.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Store {
    /// Writes down what a worker says of itself.
    pub async fn put_worker(&self, worker: &WorkerRecord) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO workers (id, name, version, engine, cpu_millicores, memory_mb, disk_mb, \
             images, last_heartbeat_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version, \
             engine = excluded.engine, cpu_millicores = excluded.cpu_millicores, \
             memory_mb = excluded.memory_mb, disk_mb = excluded.disk_mb, \
             images = excluded.images, last_heartbeat_at = excluded.last_heartbeat_at",
        )
        .bind(worker.id.to_string())
        .bind(&worker.name)
        .bind(&worker.version)
        .bind(&worker.engine)
        .bind(signed(worker.capacity.cpu_millicores))
        .bind(signed(worker.capacity.memory_mb))
        .bind(signed(worker.capacity.disk_mb))
        .bind(to_json("workers.images", &worker.images)?)
        .bind(to_micros(worker.last_heartbeat))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("store a worker"))?;
        Ok(())
    }

    /// Writes down that a worker was heard of.
    pub async fn note_heartbeat(&self, id: WorkerId, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE workers SET last_heartbeat_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(to_micros(at))
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("note a heartbeat"))?;
        Ok(())
    }

    /// Every worker that ever registered.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let rows: Vec<WorkerRow> = sqlx::query_as("SELECT * FROM workers ORDER BY id")
            .fetch_all(&self.readers)
            .await
            .map_err(StoreError::query("read the workers"))?;
        rows.into_iter().map(WorkerRecord::try_from).collect()
    }
}

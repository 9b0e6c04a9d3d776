//! Workers.

use jiff::Timestamp;
use scaibunker_api::{ids::WorkerId, worker::Capacity};

use super::{
    Removed, Store, StoreError, Updated, from_json, from_micros, parsed, to_json, to_micros,
};
use crate::domain::worker::WorkerRecord;

#[derive(sqlx::FromRow)]
struct WorkerRow {
    id: String,
    name: String,
    version: String,
    engine: String,
    cpu_class: String,
    cpu_millicores: i64,
    memory_mb: i64,
    disk_mb: i64,
    gpu_count: i64,
    gpu_type: Option<String>,
    images: String,
    network_profiles: String,
    last_heartbeat_at: i64,
    drained_at: Option<i64>,
}

impl TryFrom<WorkerRow> for WorkerRecord {
    type Error = StoreError;

    fn try_from(row: WorkerRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed("workers.id", &row.id)?,
            name: row.name,
            version: row.version,
            engine: row.engine,
            cpu_class: row.cpu_class,
            capacity: Capacity {
                cpu_millicores: unsigned("workers.cpu_millicores", row.cpu_millicores)?,
                memory_mb: unsigned("workers.memory_mb", row.memory_mb)?,
                disk_mb: unsigned("workers.disk_mb", row.disk_mb)?,
                gpu_count: unsigned("workers.gpu_count", row.gpu_count)?,
            },
            gpu_type: row.gpu_type,
            images: from_json("workers.images", &row.images)?,
            network_profiles: from_json("workers.network_profiles", &row.network_profiles)?,
            last_heartbeat: from_micros("workers.last_heartbeat_at", row.last_heartbeat_at)?,
            drained_at: row.drained_at.map(drained).transpose()?,
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
    /// Writes down what a worker says of itself, and returns since when it is drained. One that was
    /// removed is there again, as if it were new.
    pub async fn put_worker(&self, worker: &WorkerRecord) -> Result<Option<Timestamp>, StoreError> {
        let (drained_at,): (Option<i64>,) = sqlx::query_as(
            "INSERT INTO workers (id, name, version, engine, cpu_millicores, memory_mb, disk_mb, \
             gpu_count, gpu_type, images, network_profiles, last_heartbeat_at, cpu_class) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version, \
             engine = excluded.engine, cpu_class = excluded.cpu_class, cpu_millicores = excluded.cpu_millicores, \
             memory_mb = excluded.memory_mb, disk_mb = excluded.disk_mb, \
             gpu_count = excluded.gpu_count, gpu_type = excluded.gpu_type, \
             images = excluded.images, network_profiles = excluded.network_profiles, \
             last_heartbeat_at = excluded.last_heartbeat_at, \
             removed_at = NULL RETURNING drained_at",
        )
        .bind(worker.id.to_string())
        .bind(&worker.name)
        .bind(&worker.version)
        .bind(&worker.engine)
        .bind(signed(worker.capacity.cpu_millicores))
        .bind(signed(worker.capacity.memory_mb))
        .bind(signed(worker.capacity.disk_mb))
        .bind(signed(worker.capacity.gpu_count))
        .bind(&worker.gpu_type)
        .bind(to_json("workers.images", &worker.images)?)
        .bind(to_json("workers.network_profiles", &worker.network_profiles)?)
        .bind(to_micros(worker.last_heartbeat))
        .bind(&worker.cpu_class)
        .fetch_one(&self.writer)
        .await
        .map_err(StoreError::query("store a worker"))?;
        drained_at.map(drained).transpose()
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

    /// Every worker that registered and was not removed.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let rows: Vec<WorkerRow> = sqlx::query_as(
            "SELECT id, name, version, engine, cpu_class, cpu_millicores, memory_mb, disk_mb, gpu_count, \
             gpu_type, images, network_profiles, last_heartbeat_at, drained_at FROM workers \
             WHERE removed_at IS NULL ORDER BY id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(StoreError::query("read the workers"))?;
        rows.into_iter().map(WorkerRecord::try_from).collect()
    }

    /// Since when each worker is drained.
    pub async fn drains(&self) -> Result<Vec<(WorkerId, Option<Timestamp>)>, StoreError> {
        let rows: Vec<(String, Option<i64>)> =
            sqlx::query_as("SELECT id, drained_at FROM workers WHERE removed_at IS NULL")
                .fetch_all(&self.readers)
                .await
                .map_err(StoreError::query("read which workers are drained"))?;
        let read = |(id, drained_at): (String, Option<i64>)| {
            Ok((parsed("workers.id", &id)?, drained_at.map(drained).transpose()?))
        };
        rows.into_iter().map(read).collect()
    }

    /// Drains a worker, if it was not, or has it take bunkers again.
    pub async fn set_drained(
        &self,
        id: WorkerId,
        at: Option<Timestamp>,
    ) -> Result<Updated, StoreError> {
        let done = sqlx::query(
            "UPDATE workers SET drained_at = CASE WHEN CAST($2 AS BIGINT) IS NULL THEN NULL \
             ELSE COALESCE(drained_at, CAST($2 AS BIGINT)) END \
             WHERE id = $1 AND removed_at IS NULL",
        )
        .bind(id.to_string())
        .bind(at.map(to_micros))
        .execute(&self.writer)
        .await;
        Updated::of(done, "drain a worker")
    }

    /// Removes a worker that has no bunkers, with all that it has of images and groups.
    pub async fn remove_worker(&self, id: WorkerId, at: Timestamp) -> Result<Removed, StoreError> {
        let failed = || StoreError::query("remove a worker");
        let id = id.to_string();
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let (bunkers,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM bunkers WHERE worker_id = $1 AND evicted_to IS NULL \
             AND status NOT IN ('terminated', 'failed')",
        )
        .bind(&id)
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed())?;
        if bunkers > 0 {
            return Ok(Removed::InUse("bunkers"));
        }
        let done = sqlx::query(
            "UPDATE workers SET removed_at = $2, drained_at = NULL \
             WHERE id = $1 AND removed_at IS NULL",
        )
        .bind(&id)
        .bind(to_micros(at))
        .execute(&mut *transaction)
        .await;
        let removed = Removed::of(done, "bunkers", "remove a worker")?;
        for statement in [
            "DELETE FROM image_cache WHERE worker_id = $1",
            "DELETE FROM availability_group_workers WHERE worker_id = $1",
        ] {
            let gone = sqlx::query(statement).bind(&id).execute(&mut *transaction).await;
            gone.map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())?;
        Ok(removed)
    }
}

fn drained(micros: i64) -> Result<Timestamp, StoreError> {
    from_micros("workers.drained_at", micros)
}

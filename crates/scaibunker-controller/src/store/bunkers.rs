//! Single bunkers, and the sets of them that background tasks look at.

use jiff::Timestamp;
use scaibunker_api::ids::{BunkerId, ControllerId, WorkerId};
use sqlx::{AnyConnection, any::AnyQueryResult};

use super::{
    IdempotencyKey, Inserted, Store, StoreError,
    bunker_row::{BunkerRow, bunkers},
    grouped_writes::Write,
    select::Select,
    storable, to_json, to_micros,
};
use crate::domain::bunker::{Bunker, Life};

impl Store {
    /// Writes a new bunker down, together with the idempotency key of its request.
    pub async fn insert_bunker(
        &self,
        bunker: &Bunker,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a bunker");
        if key.is_none() && bunker.spec.label_set.is_empty() {
            self.grouped.write(Write::Insert(Box::new(bunker.clone()))).await?;
            return Ok(Inserted::Done);
        }
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = insert_row(&mut transaction, bunker).await?;
        insert_labels(&mut transaction, bunker).await?;
        self.finish_insert(transaction, done, key, &bunker.id.to_string(), bunker.created_at).await
    }

    /// Writes several new bunkers down, or none, together with the idempotency key of their request.
    pub async fn insert_bunkers(
        &self,
        new: &[Bunker],
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert bunkers");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let mut last = None;
        for bunker in new {
            last = Some((insert_row(&mut transaction, bunker).await?, bunker));
            insert_labels(&mut transaction, bunker).await?;
        }
        let Some((done, bunker)) = last else { return Ok(Inserted::Done) };
        self.finish_insert(transaction, done, key, &bunker.id.to_string(), bunker.created_at).await
    }

    /// One bunker.
    pub async fn bunker(&self, id: BunkerId) -> Result<Option<Bunker>, StoreError> {
        let row: Option<BunkerRow> = sqlx::query_as("SELECT * FROM bunkers WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(StoreError::query("read a bunker"))?;
        row.map(Bunker::try_from).transpose()
    }

    /// Writes a bunker's new life down; `false` when somebody else changed the bunker first.
    pub async fn update_life(&self, changed: &Bunker) -> Result<bool, StoreError> {
        let (id, generation) = (changed.id, changed.generation);
        let (worker, starter) = (changed.worker_id, changed.starter);
        let change = LifeChange { id, generation, worker, starter, life: changed.life().clone() };
        self.grouped.write(Write::Life(change)).await
    }

    /// Writes down what the owner changed; `false` when somebody else changed the bunker first.
    pub async fn update_spec(&self, changed: &Bunker) -> Result<bool, StoreError> {
        let failed = || StoreError::query("edit a bunker");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "UPDATE bunkers SET spec = $3, expires_at = $4, idle_timeout_us = $5, \
             generation = generation + 1 \
             WHERE id = $1 AND generation = $2",
        )
        .bind(changed.id.to_string())
        .bind(changed.generation - 1)
        .bind(to_json("bunkers.spec", &changed.spec)?)
        .bind(changed.expires_at().map(to_micros))
        .bind(idle_timeout_us(changed))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        if done.rows_affected() == 0 {
            transaction.rollback().await.map_err(failed())?;
            return Ok(false);
        }
        sqlx::query("DELETE FROM bunker_labels WHERE bunker_id = $1")
            .bind(changed.id.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        insert_labels(&mut transaction, changed).await?;
        transaction.commit().await.map_err(failed())?;
        Ok(true)
    }

    /// Notes that a bunker was in use, unless a later use is known. Not a change of the bunker: its
    /// generation stays.
    pub async fn touch_bunker(&self, id: BunkerId, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE bunkers SET last_active_at = $2 \
             WHERE id = $1 AND (last_active_at IS NULL OR last_active_at < $2)",
        )
        .bind(id.to_string())
        .bind(to_micros(at))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("note a bunker's activity"))?;
        Ok(())
    }

    /// Every bunker that has not ended, or those of them that one worker has.
    pub async fn live_bunkers(&self, worker: Option<WorkerId>) -> Result<Vec<Bunker>, StoreError> {
        let mut query = Select::new(
            "SELECT * FROM bunkers WHERE status IN \
             ('pending', 'provisioning', 'running', 'paused', 'terminating')",
        );
        if let Some(worker) = worker {
            query.push(" AND (evicted_to IS NULL OR status = 'terminating') AND worker_id = ");
            query.bind(worker.to_string());
        }
        bunkers(query.fetch_all(&self.readers, "read the live bunkers").await?)
    }

    /// The bunkers whose lifetime was over at `now` and that nobody has ended yet.
    pub async fn expired_bunkers(&self, now: Timestamp) -> Result<Vec<Bunker>, StoreError> {
        let rows: Vec<BunkerRow> = sqlx::query_as(
            "SELECT * FROM bunkers WHERE status IN \
             ('pending', 'provisioning', 'running', 'paused') AND expires_at <= $1",
        )
        .bind(to_micros(now))
        .fetch_all(&self.readers)
        .await
        .map_err(StoreError::query("read the expired bunkers"))?;
        bunkers(rows)
    }

    /// The paused bunkers that a worker has.
    pub async fn paused_bunkers(&self) -> Result<Vec<Bunker>, StoreError> {
        let query = Select::new(
            "SELECT * FROM bunkers WHERE status = 'paused' AND evicted_to IS NULL \
             AND paused_at IS NOT NULL",
        );
        bunkers(query.fetch_all(&self.readers, "read the paused bunkers").await?)
    }

    /// The running bunkers that, as far as is written down, did nothing for as long as they may.
    pub async fn idle_bunkers(&self, now: Timestamp) -> Result<Vec<Bunker>, StoreError> {
        let rows: Vec<BunkerRow> = sqlx::query_as(
            "SELECT * FROM bunkers WHERE status = 'running' \
             AND COALESCE(last_active_at, started_at, created_at) + idle_timeout_us <= $1",
        )
        .bind(to_micros(now))
        .fetch_all(&self.readers)
        .await
        .map_err(StoreError::query("read the idle bunkers"))?;
        bunkers(rows)
    }
}

/// A bunker's new life, and the generation that it is.
#[derive(Debug)]
pub(super) struct LifeChange {
    pub(super) id: BunkerId,
    generation: i64,
    worker: WorkerId,
    starter: Option<ControllerId>,
    life: Life,
}

impl LifeChange {
    /// Writes it down, unless the bunker is of another generation than the one before.
    pub(super) async fn run(&self, connection: &mut AnyConnection) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE bunkers SET status = $3, status_reason = $4, started_at = $5, \
             terminated_at = $6, ip_address = $7, paused_at = $8, evicted_to = $9, worker_id = $10, \
             starter_id = $11, generation = generation + 1 WHERE id = $1 AND generation = $2",
        )
        .bind(self.id.to_string())
        .bind(self.generation - 1)
        .bind(self.life.status.as_str())
        .bind(self.life.status_reason.as_deref().map(storable))
        .bind(self.life.started_at.map(to_micros))
        .bind(self.life.terminated_at.map(to_micros))
        .bind(self.life.ip_address.map(|address| address.to_string()))
        .bind(self.life.paused_at.map(to_micros))
        .bind(self.life.evicted_to.map(|id| id.to_string()))
        .bind(self.worker.to_string())
        .bind(self.starter.map(|id| id.to_string()))
        .execute(connection)
        .await
        .map_err(StoreError::query("update a bunker"))?;
        Ok(done.rows_affected() == 1)
    }
}

/// Bounded, so that an index can add it to any time.
fn idle_timeout_us(bunker: &Bunker) -> Option<i64> {
    let seconds = i64::try_from(bunker.spec.idle_timeout_s?).unwrap_or(i64::MAX);
    Some(seconds.saturating_mul(1_000_000).min(i64::MAX / 2))
}

pub(super) async fn insert_row(
    connection: &mut AnyConnection,
    bunker: &Bunker,
) -> Result<AnyQueryResult, StoreError> {
    let life = bunker.life();
    sqlx::query(
        "INSERT INTO bunkers (id, tenant_id, owner_id, worker_id, generation, status, \
         lifecycle_mode, spec, created_at, expires_at, buckets, idle_timeout_us, starter_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(bunker.id.to_string())
    .bind(bunker.tenant_id.to_string())
    .bind(bunker.owner_id.to_string())
    .bind(bunker.worker_id.to_string())
    .bind(bunker.generation)
    .bind(life.status.as_str())
    .bind(bunker.spec.lifecycle_mode.as_str())
    .bind(to_json("bunkers.spec", &bunker.spec)?)
    .bind(to_micros(bunker.created_at))
    .bind(bunker.expires_at().map(to_micros))
    .bind(to_json("bunkers.buckets", &bunker.buckets)?)
    .bind(idle_timeout_us(bunker))
    .bind(bunker.starter.map(|id| id.to_string()))
    .execute(connection)
    .await
    .map_err(StoreError::query("insert a bunker"))
}

async fn insert_labels(connection: &mut AnyConnection, bunker: &Bunker) -> Result<(), StoreError> {
    for (name, value) in &bunker.spec.label_set {
        sqlx::query("INSERT INTO bunker_labels (bunker_id, name, value) VALUES ($1, $2, $3)")
            .bind(bunker.id.to_string())
            .bind(name)
            .bind(value)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::query("label a bunker"))?;
    }
    Ok(())
}

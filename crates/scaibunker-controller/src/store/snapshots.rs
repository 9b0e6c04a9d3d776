//! Snapshots.

use jiff::Timestamp;
use scaibunker_api::{
    ids::{ControllerId, ImageId, SnapshotId},
    snapshot::{Snapshot, SnapshotStatus},
};
use sqlx::AnyConnection;

use super::{
    IdempotencyKey, Inserted, Store, StoreError, from_json, from_micros,
    images::{from_word, to_word},
    parsed,
    select::Select,
    storable, to_json, to_micros,
    workers::unsigned,
};
use crate::domain::{
    actor::Scope,
    snapshot::{Machine, SnapshotRecord},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    tenant_id: String,
    owner_id: String,
    bunker_id: String,
    image_id: String,
    image_digest: String,
    name: Option<String>,
    kind: String,
    status: String,
    status_reason: Option<String>,
    spec: String,
    size_bytes: i64,
    stored_bytes: i64,
    manifest_digest: Option<String>,
    sealed_with: Option<String>,
    engine: Option<String>,
    cpu_class: Option<String>,
    is_evicted: i64,
    starter_id: String,
    created_at: i64,
    expires_at: Option<i64>,
}

impl TryFrom<Row> for SnapshotRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let expires_at = row.expires_at.map(|at| from_micros("snapshots.expires_at", at));
        let shown = Snapshot {
            id: parsed("snapshots.id", &row.id)?,
            tenant_id: parsed("snapshots.tenant_id", &row.tenant_id)?,
            owner_id: parsed("snapshots.owner_id", &row.owner_id)?,
            bunker_id: parsed("snapshots.bunker_id", &row.bunker_id)?,
            image_id: parsed("snapshots.image_id", &row.image_id)?,
            name: row.name,
            kind: from_word("snapshots.kind", &row.kind)?,
            status: from_word("snapshots.status", &row.status)?,
            status_reason: row.status_reason,
            size_bytes: unsigned("snapshots.size_bytes", row.size_bytes)?,
            stored_bytes: unsigned("snapshots.stored_bytes", row.stored_bytes)?,
            created_at: from_micros("snapshots.created_at", row.created_at)?,
            expires_at: expires_at.transpose()?,
        };
        let digest = row.manifest_digest.map(|text| parsed("snapshots.manifest_digest", &text));
        Ok(Self {
            shown,
            image_digest: row.image_digest,
            spec: from_json("snapshots.spec", &row.spec)?,
            manifest_digest: digest.transpose()?,
            sealed_with: row.sealed_with,
            machine: row
                .engine
                .zip(row.cpu_class)
                .map(|(engine, cpu_class)| Machine { engine, cpu_class }),
            is_evicted: row.is_evicted != 0,
            starter: parsed("snapshots.starter_id", &row.starter_id)?,
        })
    }
}

impl Store {
    /// Writes a snapshot down that is being taken, with the idempotency key of its request.
    pub async fn insert_snapshot(
        &self,
        record: &SnapshotRecord,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a snapshot");
        let (shown, id) = (&record.shown, record.shown.id.to_string());
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO snapshots (id, tenant_id, owner_id, bunker_id, image_id, image_digest, \
             name, kind, status, spec, sealed_with, starter_id, created_at, expires_at, engine, \
             cpu_class, is_evicted) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        )
        .bind(&id)
        .bind(shown.tenant_id.to_string())
        .bind(shown.owner_id.to_string())
        .bind(shown.bunker_id.to_string())
        .bind(shown.image_id.to_string())
        .bind(&record.image_digest)
        .bind(shown.name.as_deref().map(storable))
        .bind(to_word("snapshots.kind", &shown.kind)?)
        .bind(to_word("snapshots.status", &shown.status)?)
        .bind(to_json("snapshots.spec", &record.spec)?)
        .bind(record.sealed_with.as_deref())
        .bind(record.starter.to_string())
        .bind(to_micros(shown.created_at))
        .bind(shown.expires_at.map(to_micros))
        .bind(record.machine.as_ref().map(|machine| machine.engine.as_str()))
        .bind(record.machine.as_ref().map(|machine| machine.cpu_class.as_str()))
        .bind(i64::from(record.is_evicted))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        self.finish_insert(transaction, done, key, &id, shown.created_at).await
    }

    /// One snapshot.
    pub async fn snapshot(&self, id: SnapshotId) -> Result<Option<SnapshotRecord>, StoreError> {
        let mut select = Select::new("SELECT * FROM snapshots WHERE id = ");
        select.bind(id.to_string());
        Ok(self.snapshots(select).await?.pop())
    }

    /// The newest `limit` snapshots within `scope` made before `before`.
    pub async fn list_snapshots(
        &self,
        scope: Scope,
        before: Option<SnapshotId>,
        limit: usize,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        let mut select = Select::new("SELECT * FROM snapshots WHERE is_evicted = 0");
        select.in_scope(scope, " AND owner_id = ").page(before, limit);
        self.snapshots(select).await
    }

    /// Whether there is a snapshot that means nothing without this image.
    pub async fn has_snapshot_on(&self, image: ImageId) -> Result<bool, StoreError> {
        let mut select = Select::new("SELECT * FROM snapshots WHERE image_id = ");
        select.bind(image.to_string()).limit(1);
        Ok(!self.snapshots(select).await?.is_empty())
    }

    /// Snapshots whose time has come, at most `limit`.
    pub async fn expired_snapshots(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        let mut select = Select::new("SELECT * FROM snapshots WHERE expires_at <= ");
        select.bind(to_micros(now)).limit(limit);
        self.snapshots(select).await
    }

    /// Snapshots that are being taken, by whichever controller.
    pub async fn unfinished_snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let mut select = Select::new("SELECT * FROM snapshots WHERE status = ");
        select.bind(to_word("snapshots.status", &SnapshotStatus::Creating)?);
        self.snapshots(select).await
    }

    /// The memories of bunkers that were written out, but for those that are being stored.
    pub async fn evicted_snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let mut select = Select::new("SELECT * FROM snapshots WHERE is_evicted = 1 AND status <> ");
        select.bind(to_word("snapshots.status", &SnapshotStatus::Creating)?);
        self.snapshots(select).await
    }

    /// Makes one of them a snapshot like any other.
    pub async fn keep_evicted(
        &self,
        id: SnapshotId,
        expires_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE snapshots SET is_evicted = 0, expires_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(expires_at.map(to_micros))
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("keep a snapshot"))?;
        Ok(())
    }

    async fn snapshots(&self, select: Select) -> Result<Vec<SnapshotRecord>, StoreError> {
        let rows: Vec<Row> = select.fetch_all(&self.readers, "read snapshots").await?;
        rows.into_iter().map(SnapshotRecord::try_from).collect()
    }

    /// Changes a snapshot's name and expiry; `false` if it is gone.
    pub async fn update_snapshot(&self, shown: &Snapshot) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE snapshots SET name = $2, expires_at = $3 WHERE id = $1")
            .bind(shown.id.to_string())
            .bind(shown.name.as_deref().map(storable))
            .bind(shown.expires_at.map(to_micros))
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("update a snapshot"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes down why a snapshot that was being taken is not: whatever it referred to is let go of.
    /// Only that of `starter`, if one is named. `false` if it was not being taken any more.
    pub async fn fail_snapshot(
        &self,
        id: SnapshotId,
        starter: ControllerId,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let failed = || StoreError::query("fail a snapshot");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "UPDATE snapshots SET status = $2, status_reason = $3 \
             WHERE id = $1 AND status = $4 AND starter_id = $5",
        )
        .bind(id.to_string())
        .bind(to_word("snapshots.status", &SnapshotStatus::Failed)?)
        .bind(storable(reason))
        .bind(to_word("snapshots.status", &SnapshotStatus::Creating)?)
        .bind(starter.to_string())
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        if done.rows_affected() == 1 {
            let_go_of_packs(&mut transaction, id, Timestamp::now()).await?;
        }
        transaction.commit().await.map_err(failed())?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets a snapshot and lets go of whatever it referred to; `false` if it was gone.
    pub async fn delete_snapshot(&self, id: SnapshotId) -> Result<bool, StoreError> {
        let failed = || StoreError::query("delete a snapshot");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query("DELETE FROM snapshots WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        let_go_of_packs(&mut transaction, id, Timestamp::now()).await?;
        transaction.commit().await.map_err(failed())?;
        Ok(done.rows_affected() == 1)
    }
}

/// Forgets what a snapshot refers to, and marks what nothing refers to any more.
async fn let_go_of_packs(
    connection: &mut AnyConnection,
    id: SnapshotId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let failed = || StoreError::query("let go of a snapshot's packs");
    // First the locks: what refers to a pack is looked at by a statement that begins after others have
    // written their references.
    sqlx::query(
        "UPDATE packs SET size_bytes = size_bytes \
         WHERE id IN (SELECT pack_id FROM snapshot_packs WHERE snapshot_id = $1)",
    )
    .bind(id.to_string())
    .execute(&mut *connection)
    .await
    .map_err(failed())?;
    sqlx::query(
        "UPDATE packs SET unused_since = $2 WHERE unused_since IS NULL \
         AND id IN (SELECT pack_id FROM snapshot_packs WHERE snapshot_id = $1) \
         AND NOT EXISTS (SELECT 1 FROM snapshot_packs \
         WHERE snapshot_packs.pack_id = packs.id AND snapshot_packs.snapshot_id <> $1)",
    )
    .bind(id.to_string())
    .bind(to_micros(at))
    .execute(&mut *connection)
    .await
    .map_err(failed())?;
    sqlx::query("DELETE FROM snapshot_packs WHERE snapshot_id = $1")
        .bind(id.to_string())
        .execute(connection)
        .await
        .map_err(failed())?;
    Ok(())
}

//! Packs: which chunks are stored, and which snapshots refer to them.
//!
//! A pack begins with a reference, that of the snapshot it is made for. Others refer to it only once it is
//! stored and while something still does: one that is unused stays so, and is deleted after a while.

use std::collections::HashMap;

use jiff::Timestamp;
use scaibunker_api::{
    ids::{PackId, SnapshotId, TenantId},
    snapshot::SnapshotStatus,
};
use scaibunker_snapshot::{ChunkName, Digest, link::StoredPack, pack::PackEntry};

use super::{
    Store, StoreError,
    images::to_word,
    parsed,
    select::Select,
    to_micros,
    workers::{signed, unsigned},
};
use crate::domain::snapshot::StoredChunk;

/// Names that are looked up at once.
const NAMES: usize = 500;
/// Chunks that are written down at once: each takes six parameters, of which SQLite takes 32,766.
const ROWS: usize = 500;

#[derive(sqlx::FromRow)]
struct ChunkRow {
    name: String,
    pack_id: String,
    number: i64,
    start: i64,
    length: i64,
    chunk_count: i64,
}

/// A snapshot that is complete.
pub struct FinishedSnapshot<'a> {
    pub id: SnapshotId,
    pub tenant: TenantId,
    pub packs: &'a [StoredPack],
    pub manifest_digest: Digest,
    pub size_bytes: u64,
    pub stored_bytes: u64,
}

impl Store {
    /// Where chunks of these names are in the tenant's packs that are in use.
    pub async fn stored_chunks(
        &self,
        tenant: TenantId,
        names: &[ChunkName],
    ) -> Result<HashMap<ChunkName, Vec<StoredChunk>>, StoreError> {
        let mut found: HashMap<_, Vec<_>> = HashMap::new();
        for names in names.chunks(NAMES) {
            let mut select = Select::new(
                "SELECT chunks.*, packs.chunk_count FROM chunks \
                 JOIN packs ON packs.id = chunks.pack_id \
                 WHERE packs.unused_since IS NULL AND packs.size_bytes > 0 AND chunks.tenant_id = ",
            );
            select.bind(tenant.to_string()).push(" AND chunks.name");
            select.within(names.iter().map(ToString::to_string));
            let rows: Vec<ChunkRow> = select.fetch_all(&self.readers, "look up chunks").await?;
            for row in rows {
                let name = parsed("chunks.name", &row.name)?;
                let entry = PackEntry {
                    name,
                    number: unsigned("chunks.number", row.number)?,
                    offset: unsigned("chunks.start", row.start)?,
                    length: unsigned("chunks.length", row.length)?,
                };
                found.entry(name).or_default().push(StoredChunk {
                    pack: parsed("chunks.pack_id", &row.pack_id)?,
                    pack_chunks: unsigned("packs.chunk_count", row.chunk_count)?,
                    entry,
                });
            }
        }
        Ok(found)
    }

    /// Has a snapshot that is being taken refer to packs, the new ones among them. `false`, and nothing
    /// is written, if one of the others is not in use any more, or the snapshot is gone.
    pub async fn refer_to_packs(
        &self,
        id: SnapshotId,
        tenant: TenantId,
        known: &[PackId],
        new: &[PackId],
    ) -> Result<bool, StoreError> {
        let failed = || StoreError::query("refer to packs");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        for pack in new {
            sqlx::query("INSERT INTO packs (id, tenant_id) VALUES ($1, $2)")
                .bind(pack.to_string())
                .bind(tenant.to_string())
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
        }
        for pack in known {
            // A write, so that whoever lets go of the last reference waits, or is seen.
            let done = sqlx::query(
                "UPDATE packs SET size_bytes = size_bytes WHERE id = $1 AND unused_since IS NULL",
            )
            .bind(pack.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
        }
        for pack in known.iter().chain(new) {
            let done = sqlx::query(
                "INSERT INTO snapshot_packs (snapshot_id, pack_id) \
                 SELECT id, $2 FROM snapshots WHERE id = $1 AND status = $3",
            )
            .bind(id.to_string())
            .bind(pack.to_string())
            .bind(to_word("snapshots.status", &SnapshotStatus::Creating)?)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
        }
        transaction.commit().await.map_err(failed())?;
        Ok(true)
    }

    /// Writes down that a snapshot is ready, and what its new packs have. `false` if it was not being
    /// taken any more.
    pub async fn finish_snapshot(&self, done: FinishedSnapshot<'_>) -> Result<bool, StoreError> {
        let failed = || StoreError::query("finish a snapshot");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let updated = sqlx::query(
            "UPDATE snapshots SET status = $2, manifest_digest = $3, size_bytes = $4, \
             stored_bytes = $5 WHERE id = $1 AND status = $6",
        )
        .bind(done.id.to_string())
        .bind(to_word("snapshots.status", &SnapshotStatus::Ready)?)
        .bind(done.manifest_digest.to_string())
        .bind(signed(done.size_bytes))
        .bind(signed(done.stored_bytes))
        .bind(to_word("snapshots.status", &SnapshotStatus::Creating)?)
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        if updated.rows_affected() == 0 {
            return Ok(false);
        }
        for pack in done.packs {
            sqlx::query("UPDATE packs SET size_bytes = $2, chunk_count = $3 WHERE id = $1")
                .bind(pack.id.to_string())
                .bind(signed(pack.size_bytes.max(1)))
                .bind(pack.entries.len() as i64)
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
            for entries in pack.entries.chunks(ROWS) {
                let rows: Vec<String> = (0..entries.len())
                    .map(|row| {
                        let at = row * 4 + 3;
                        format!("($1, ${at}, $2, ${}, ${}, ${})", at + 1, at + 2, at + 3)
                    })
                    .collect();
                let text = format!(
                    "INSERT INTO chunks (tenant_id, name, pack_id, number, start, length) \
                     VALUES {}",
                    rows.join(", ")
                );
                // Of numbers and literals of this program alone.
                let mut insert = sqlx::query(sqlx::AssertSqlSafe(text))
                    .bind(done.tenant.to_string())
                    .bind(pack.id.to_string());
                for entry in entries {
                    insert = insert
                        .bind(entry.name.to_string())
                        .bind(i64::from(entry.number))
                        .bind(i64::from(entry.offset))
                        .bind(i64::from(entry.length));
                }
                insert.execute(&mut *transaction).await.map_err(failed())?;
            }
        }
        transaction.commit().await.map_err(failed())?;
        Ok(true)
    }

    /// Packs that nothing refers to since `before`, with their tenants, at most `limit`.
    pub async fn unused_packs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(PackId, TenantId)>, StoreError> {
        let mut select = Select::new("SELECT id, tenant_id FROM packs WHERE unused_since <= ");
        select.bind(to_micros(before)).limit(limit);
        let rows: Vec<(String, String)> =
            select.fetch_all(&self.readers, "read unused packs").await?;
        rows.iter()
            .map(|(id, tenant)| Ok((parsed("packs.id", id)?, parsed("packs.tenant_id", tenant)?)))
            .collect()
    }

    /// Forgets a pack whose object is deleted.
    pub async fn forget_pack(&self, id: PackId) -> Result<(), StoreError> {
        let failed = || StoreError::query("forget a pack");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        for text in ["DELETE FROM chunks WHERE pack_id = $1", "DELETE FROM packs WHERE id = $1"] {
            sqlx::query(text)
                .bind(id.to_string())
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())
    }
}

//! What goes when its time has come: snapshots, and what nothing refers to.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Snapshots, manifest_key, pack_key};
use crate::{
    domain::snapshot::SnapshotRecord,
    failure::{Failure, chain},
};

/// Objects and rows that are looked at in one go.
const BATCH: usize = 200;

/// A pack that nothing refers to is deleted after this: a bunker may just be starting from it, and a worker
/// that was cut off may still be storing it.
const UNUSED_FOR: Duration = Duration::from_secs(3_600);

impl Snapshots {
    /// Deletes what has expired, fails what nobody takes any more, and deletes packs that have been unused
    /// for long enough.
    pub async fn tidy(&self) -> Result<(), Failure> {
        let now = Timestamp::now();
        for record in self.store.expired_snapshots(now, BATCH).await? {
            self.remove(&record).await?;
            tracing::info!(snapshot_id = %record.shown.id, "a snapshot has expired");
        }
        for record in self.store.unfinished_snapshots().await? {
            let is_alive = record.starter == self.replicas.id()
                || self.replicas.is_another_alive(record.starter);
            if !is_alive {
                let reason = "the controller that took it has ended; take it again";
                self.store.fail_snapshot(record.shown.id, record.starter, reason).await?;
            }
        }
        self.tidy_evicted().await?;
        self.delete_unused_packs(now).await
    }

    async fn delete_unused_packs(&self, now: Timestamp) -> Result<(), Failure> {
        let kept = SignedDuration::try_from(UNUSED_FOR).unwrap_or(SignedDuration::ZERO);
        let before = now.checked_sub(kept).unwrap_or(Timestamp::UNIX_EPOCH);
        for (pack, tenant) in self.store.unused_packs(before, BATCH).await? {
            // The object first: one that nobody knows of would stay for ever.
            match self.objects.delete(&pack_key(tenant, pack)).await {
                Ok(()) => self.store.forget_pack(pack).await?,
                Err(error) => {
                    tracing::warn!(pack_id = %pack, error = chain(&error), "a pack is not deleted");
                }
            }
        }
        Ok(())
    }

    /// Forgets a snapshot, then deletes its manifest.
    pub(super) async fn remove(&self, record: &SnapshotRecord) -> Result<(), Failure> {
        let (id, tenant) = (record.shown.id, record.shown.tenant_id);
        self.store.delete_snapshot(id).await?;
        if let Err(error) = self.objects.delete(&manifest_key(tenant, id)).await {
            tracing::warn!(snapshot_id = %id, error = chain(&error), "a manifest is not deleted");
        }
        Ok(())
    }
}

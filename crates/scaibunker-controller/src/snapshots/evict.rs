//! Writing the memory of paused bunkers out, so that their workers are free for others.
//!
//! It is a snapshot of memory that nobody sees. Once it is stored, one write says that the bunker is there
//! and no longer on its worker; whoever resumes it meanwhile makes that write void. So at every moment
//! exactly one of the two has the bunker, whatever dies.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorCode,
    ids::{BunkerId, RequestId, SnapshotId},
    snapshot::{CreateSnapshot, Snapshot, SnapshotKind, SnapshotStatus},
};

use super::{Snapshots, unknown};
use crate::{
    domain::{
        bunker::{Bunker, Event},
        snapshot::{SnapshotRecord, check_memory},
    },
    failure::{Failure, chain},
};

/// What could not be written out is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Which bunkers this process writes out, and which it could not.
#[derive(Debug, Default)]
pub(super) struct Evictions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    under_way: HashSet<BunkerId>,
    failed: HashMap<BunkerId, Instant>,
}

impl Evictions {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to write this one out; then nobody else is told so until it ends.
    fn begin(&self, id: BunkerId) -> bool {
        let mut known = self.known();
        known.failed.retain(|_, at| at.elapsed() < RETRY_AFTER);
        !known.failed.contains_key(&id) && known.under_way.insert(id)
    }

    fn end(&self, id: BunkerId, is_done: bool) {
        let mut known = self.known();
        known.under_way.remove(&id);
        if !is_done {
            known.failed.insert(id, Instant::now());
        }
    }

    fn is_under_way(&self, id: BunkerId) -> bool {
        self.known().under_way.contains(&id)
    }
}

impl Snapshots {
    /// Writes a bunker out that has been paused for long enough.
    pub async fn evict(&self, bunker: Bunker) {
        let id = bunker.id;
        if check_memory(SnapshotKind::Memory, &bunker.spec).is_err() || !self.evictions.begin(id) {
            return;
        }
        let request_id = RequestId::generate().to_string();
        let evicted = self.write_out(bunker, &request_id).await;
        if let Err(failure) = &evicted {
            let reason = chain(failure);
            tracing::warn!(bunker_id = %id, reason, "a paused bunker is not written out");
        }
        self.evictions.end(id, evicted.is_ok());
    }

    async fn write_out(&self, bunker: Bunker, request_id: &str) -> Result<(), Failure> {
        let request = CreateSnapshot { kind: SnapshotKind::Memory, ..CreateSnapshot::default() };
        let (record, link) = self.begin(bunker.clone(), request).await?;
        let record = SnapshotRecord { is_evicted: true, ..record };
        let to = record.shown.id;
        self.store.insert_snapshot(&record, None).await?;
        self.carry_out(record, link.clone(), request_id).await;
        let stored = self.store.snapshot(to).await?.ok_or_else(|| unknown(to))?;
        if stored.shown.status != SnapshotStatus::Ready {
            self.remove(&stored).await?;
            let reason = stored.shown.status_reason.unwrap_or_default();
            return Err(Failure::new(ErrorCode::SnapshotNotReady, reason));
        }
        let evicted = self.bunkers.apply_if_unchanged(&bunker, Event::Evicted { to }).await?;
        if evicted.is_none() {
            // It was resumed, or has ended.
            return self.remove(&stored).await;
        }
        if let Err(error) = link.remove(bunker.id, request_id).await {
            // The reconciler finds it there.
            tracing::warn!(bunker_id = %bunker.id, error = chain(&error), "its worker still has a bunker");
        }
        Ok(())
    }

    /// Makes what a bunker was written out to a snapshot like any other, which outlives it.
    pub(super) async fn keep_evicted(
        &self,
        id: SnapshotId,
        expires_at: Option<Timestamp>,
    ) -> Result<Snapshot, Failure> {
        self.store.keep_evicted(id, expires_at).await?;
        let record = self.store.snapshot(id).await?.ok_or_else(|| unknown(id))?;
        Ok(record.shown)
    }

    /// Deletes what no bunker needs any more of those that were written out.
    pub(super) async fn tidy_evicted(&self) -> Result<(), Failure> {
        for record in self.store.evicted_snapshots().await? {
            let (id, bunker_id) = (record.shown.id, record.shown.bunker_id);
            let is_under_way = self.evictions.is_under_way(bunker_id)
                || self.replicas.is_another_alive(record.starter);
            let bunker = self.store.bunker(bunker_id).await?;
            let is_needed = bunker.is_some_and(|bunker| {
                !bunker.status().is_terminal() && bunker.life().evicted_to == Some(id)
            });
            if !is_needed && !is_under_way {
                self.remove(&record).await?;
            }
        }
        Ok(())
    }
}

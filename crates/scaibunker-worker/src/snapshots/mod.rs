//! Snapshots of bunkers' disks.
//!
//! A copy of a disk is taken in one moment and held here, in a file without a name, until its chunks are
//! stored or nobody has asked for them in a while. Nothing of it survives the server: a snapshot that was
//! not stored is taken anew.

mod restore;
mod store;

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, SnapshotId},
};
use scaibunker_snapshot::{
    FoundChunk, SnapshotKeys, find_chunks,
    link::{StoreSnapshot, StoredSnapshot, TakeSnapshot, TakenSnapshot},
};

pub use self::restore::{RestoreError, restore};
use crate::{chain, storage::StorageClient, supervisor::Supervisor};

/// A copy whose chunks nobody asks for is let go of.
const MAX_AGE: Duration = Duration::from_secs(900);

/// Copies of disks on their way into the object store. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    storage: Arc<StorageClient>,
    dir: PathBuf,
    staged: Mutex<HashMap<SnapshotId, Staged>>,
}

/// A copy of a disk.
#[derive(Clone)]
struct Staged {
    disk: Arc<File>,
    disk_bytes: u64,
    keys: SnapshotKeys,
    chunks: Arc<Vec<FoundChunk>>,
    since: Instant,
}

impl Snapshots {
    /// Keeps copies in `dir`, which must be there.
    #[must_use]
    pub fn new(storage: Arc<StorageClient>, dir: PathBuf) -> Self {
        Self(Arc::new(Inner { storage, dir, staged: Mutex::default() }))
    }

    fn staged(&self) -> MutexGuard<'_, HashMap<SnapshotId, Staged>> {
        self.0.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a bunker's disk as it is at one moment, and says what it consists of.
    pub async fn take(
        &self,
        supervisor: &Supervisor,
        bunker: BunkerId,
        id: SnapshotId,
        ask: TakeSnapshot,
        request_id: String,
    ) -> Result<TakenSnapshot, ErrorBody> {
        self.staged().retain(|_, staged| staged.since.elapsed() < MAX_AGE);
        let failed = |error: io::Error| failure("take the snapshot", &error);
        let file = tempfile::tempfile_in(&self.0.dir).map_err(failed)?;
        let copy = file.try_clone().map_err(failed)?;
        let copied = supervisor.copy_disk(bunker, copy, request_id).await?;
        let (disk, keys) = (Arc::new(file), ask.keys);
        let (reading, naming) = (Arc::clone(&disk), keys.clone());
        let found =
            tokio::task::spawn_blocking(move || find_chunks(&reading, copied.disk_bytes, &naming));
        let found = found.await.map_err(io::Error::from).and_then(|found| found);
        let chunks = found.map_err(failed)?;
        let taken = TakenSnapshot {
            disk_bytes: copied.disk_bytes,
            frozen_us: u64::try_from(copied.frozen.as_micros()).unwrap_or(u64::MAX),
            chunks: chunks.clone(),
        };
        let (disk_bytes, chunks, since) = (copied.disk_bytes, Arc::new(chunks), Instant::now());
        self.staged().insert(id, Staged { disk, disk_bytes, keys, chunks, since });
        Ok(taken)
    }

    /// Stores what is not stored yet of a copy, and the manifest; then the copy is let go of.
    pub async fn store(
        &self,
        id: SnapshotId,
        ask: StoreSnapshot,
    ) -> Result<StoredSnapshot, ErrorBody> {
        let staged = self.staged().get(&id).cloned();
        let staged = staged.ok_or_else(|| {
            let message = format!("this worker holds no copy for snapshot {id}; take it again");
            ErrorBody::new(ErrorCode::NotFound, message)
        })?;
        let stored = store::store(&self.0.storage, &staged, id, ask).await;
        let stored = stored.map_err(|error| failure("store the snapshot", &error))?;
        self.forget(id);
        Ok(stored)
    }

    /// Lets go of a copy. One that is not there is fine.
    pub fn forget(&self, id: SnapshotId) {
        self.staged().remove(&id);
    }

    /// Where objects are.
    #[must_use]
    pub fn storage(&self) -> &StorageClient {
        &self.0.storage
    }
}

fn failure(what: &str, error: &(dyn std::error::Error + 'static)) -> ErrorBody {
    let message = format!("cannot {what}: {}", chain(error));
    ErrorBody::new(ErrorCode::ProvisioningFailed, message)
}

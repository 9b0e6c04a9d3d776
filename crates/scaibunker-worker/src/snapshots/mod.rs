//! Snapshots of bunkers: of their disks, or of everything.
//!
//! A copy is taken in one moment and held here, in files without a name, until its chunks are
//! stored or nobody has asked for them in a while. Nothing of it survives the server: a snapshot that was
//! not stored is taken anew.

mod parts;
mod restore;
mod store;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, SnapshotId},
    worker::ExecReport,
};
use scaibunker_snapshot::{
    FoundChunk, Manifest, SnapshotKeys,
    link::{RestoreSnapshot, StoreSnapshot, StoredSnapshot, TakeSnapshot, TakenSnapshot},
};

pub use self::{
    parts::Parts,
    restore::{RestoreError, fill},
};
use crate::{
    assets::BakedImage,
    chain,
    engine::{Shape, Template},
    storage::StorageClient,
    supervisor::Supervisor,
};

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

/// A copy.
#[derive(Clone)]
struct Staged {
    parts: Arc<Parts>,
    keys: SnapshotKeys,
    chunks: Arc<Vec<FoundChunk>>,
    /// What a bunker that is to go on remembers.
    execs: Vec<ExecReport>,
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

    /// Copies a bunker as it is at one moment, and says what the copy consists of.
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
        let execs = if ask.evicts { supervisor.at_rest(bunker)? } else { Vec::new() };
        let (parts, stood_still) = match &ask.memory_of {
            None => {
                let file = tempfile::tempfile_in(&self.0.dir).map_err(failed)?;
                let copy = file.try_clone().map_err(failed)?;
                let copied = supervisor.copy_disk(bunker, copy, request_id).await?;
                (Parts::of_disk(file, copied.disk_bytes), copied.frozen)
            }
            Some(spec) => {
                let moment = supervisor.copy_all(bunker, spec, request_id).await?;
                (Parts::of_moment(&moment.template).map_err(failed)?, moment.stood_still)
            }
        };
        let (parts, keys) = (Arc::new(parts), ask.keys);
        let (looking, naming) = (Arc::clone(&parts), keys.clone());
        let found = tokio::task::spawn_blocking(move || looking.find_chunks(&naming)).await;
        let chunks = found.map_err(io::Error::from).and_then(|found| found).map_err(failed)?;
        let taken = TakenSnapshot {
            layout: parts.layout(),
            frozen_us: u64::try_from(stood_still.as_micros()).unwrap_or(u64::MAX),
            chunks: chunks.clone(),
        };
        let (chunks, since) = (Arc::new(chunks), Instant::now());
        self.staged().insert(id, Staged { parts, keys, chunks, execs, since });
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

    /// What a stored snapshot consists of.
    pub async fn manifest(&self, from: &RestoreSnapshot) -> Result<Manifest, RestoreError> {
        restore::manifest(self.storage(), from).await
    }

    /// A bunker's moment, out of the object store.
    pub async fn moment(
        &self,
        from: &RestoreSnapshot,
        manifest: &Manifest,
        shape: Shape,
        image: BakedImage,
    ) -> Result<Template, RestoreError> {
        let parts = Arc::new(Parts::create(manifest.layout, &self.0.dir)?);
        restore::fill(self.storage(), from, manifest, &parts).await?;
        let parts = Arc::into_inner(parts).ok_or(io::ErrorKind::ResourceBusy);
        let (saved, scratch) = parts.map_err(io::Error::from)?.into_moment()?;
        Ok(Template { shape, image, saved, scratch })
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

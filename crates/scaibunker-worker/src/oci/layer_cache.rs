//! Layers as registries have them, compressed, under their digests.
//!
//! ```text
//! <dir>/<hex>           a whole layer: its SHA-256 is its name
//!       <hex>.partial   what has come of one; the next download goes on behind it
//! ```
//!
//! A layer's time of modification is that of its last use, so it outlives the server.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use super::{OciError, sha256_hex};

const PARTIAL: &str = ".partial";

/// The cache; clones are the same one.
#[derive(Debug, Clone)]
pub struct LayerCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Layers in use or on their way; the lock is held by the one who fetches.
    slots: Mutex<HashMap<String, Weak<Slot>>>,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) fetching: tokio::sync::Mutex<()>,
}

/// Keeps a layer in the cache.
#[derive(Debug, Clone)]
pub struct LayerLease {
    path: PathBuf,
    slot: Arc<Slot>,
}

/// A layer, or a part of one, that nobody uses at the moment or somebody does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedLayer {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub last_used: SystemTime,
    pub in_use: bool,
}

impl LayerCache {
    /// The cache in `dir`, which is made if it is missing.
    pub fn open(dir: PathBuf) -> Result<Self, OciError> {
        fs::create_dir_all(&dir).map_err(OciError::io("make", &dir))?;
        Ok(Self(Arc::new(Shared { dir, slots: Mutex::default() })))
    }

    /// Everything in the cache.
    pub fn list(&self) -> Result<Vec<CachedLayer>, OciError> {
        let dir = &self.0.dir;
        let mut layers = Vec::new();
        for entry in fs::read_dir(dir).map_err(OciError::io("read", dir))? {
            let path = entry.map_err(OciError::io("read", dir))?.path();
            // One that is just renamed or removed is not there any more.
            let Ok(found) = path.metadata() else { continue };
            let in_use = self.is_used(&path);
            let last_used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            layers.push(CachedLayer { size_bytes: found.len(), path, last_used, in_use });
        }
        Ok(layers)
    }

    /// Removes a layer unless it is in use; whether it did.
    pub fn evict(&self, layer: &CachedLayer) -> bool {
        let slots = self.slots();
        let is_used = hex_of(&layer.path).is_some_and(|hex| is_alive(&slots, hex));
        !is_used && fs::remove_file(&layer.path).is_ok()
    }

    fn is_used(&self, path: &Path) -> bool {
        hex_of(path).is_some_and(|hex| is_alive(&self.slots(), hex))
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Weak<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease on the place of a layer, whether it is there or not.
    pub(super) fn lease(&self, digest: &str) -> Result<LayerLease, OciError> {
        let hex = sha256_hex(digest)
            .ok_or_else(|| OciError::Refused(format!("the digest `{digest}` is not a SHA-256")))?;
        let mut slots = self.slots();
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = slots.get(hex).and_then(Weak::upgrade).unwrap_or_else(|| {
            let slot = Arc::new(Slot { fetching: tokio::sync::Mutex::new(()) });
            slots.insert(hex.to_owned(), Arc::downgrade(&slot));
            slot
        });
        Ok(LayerLease { path: self.0.dir.join(hex), slot })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }
}

fn is_alive(slots: &HashMap<String, Weak<Slot>>, hex: &str) -> bool {
    slots.get(hex).is_some_and(|slot| slot.strong_count() > 0)
}

fn hex_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    Some(name.strip_suffix(PARTIAL).unwrap_or(name))
}

impl LayerLease {
    /// Where the layer is, or will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn partial_path(&self) -> PathBuf {
        self.path.with_extension(&PARTIAL[1..])
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Notes a use; whether the layer is there with that size.
    pub(super) fn is_there(&self, size_bytes: u64) -> bool {
        let Ok(file) = File::options().append(true).open(&self.path) else { return false };
        let is_whole = file.metadata().is_ok_and(|found| found.len() == size_bytes);
        // Without the new time it is evicted a little sooner.
        let _ = file.set_modified(SystemTime::now());
        is_whole
    }
}

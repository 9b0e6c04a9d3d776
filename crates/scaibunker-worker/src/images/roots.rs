//! Root file systems on this worker, each under its digest.
//!
//! ```text
//! <dir>/<hex>/rootfs.ext4     the file system; its time of modification is that of its last use
//!             manifest.json   written last; without it the directory is nothing
//! ```

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use scaibunker_api::image::RootConfig;
use serde::{Deserialize, Serialize};

const ROOTFS: &str = "rootfs.ext4";
const MANIFEST: &str = "manifest.json";

/// What is known of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootManifest {
    /// `sha256:…` of the file.
    pub digest: String,
    pub size_bytes: u64,
    /// `sha256:…` of the manifest it was baked from.
    pub manifest_digest: Option<String>,
    pub config: RootConfig,
}

/// A root that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub manifest: RootManifest,
    pub path: PathBuf,
}

/// Keeps a root on the disk; held by every bunker.
#[derive(Debug, Clone)]
pub struct RootLease {
    _use: Arc<()>,
}

/// A root as eviction sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRoot {
    pub digest: String,
    /// On the disk; the file has holes.
    pub size_bytes: u64,
    pub last_used: SystemTime,
    pub in_use: bool,
}

/// The directory of roots.
#[derive(Debug)]
pub struct Roots {
    dir: PathBuf,
    leases: Mutex<HashMap<String, Weak<()>>>,
}

impl Roots {
    /// The roots in `dir`, which is made if it is missing; what a killed worker left half-made
    /// goes.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if !path.is_dir() {
                fs::remove_file(&path)?;
            } else if !path.join(MANIFEST).is_file() {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(Self { dir, leases: Mutex::default() })
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<String, Weak<()>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn home(&self, digest: &str) -> PathBuf {
        self.dir.join(digest.trim_start_matches("sha256:"))
    }

    /// A root that is whole.
    pub fn get(&self, digest: &str) -> Option<Root> {
        let home = self.home(digest);
        let manifest: RootManifest =
            serde_json::from_slice(&fs::read(home.join(MANIFEST)).ok()?).ok()?;
        let path = home.join(ROOTFS);
        let is_whole = path.metadata().is_ok_and(|found| found.len() == manifest.size_bytes);
        (is_whole && manifest.digest == digest).then_some(Root { manifest, path })
    }

    /// Keeps a root from eviction, and notes its use. `None` if it is not here.
    pub fn lease(&self, digest: &str) -> Option<(Root, RootLease)> {
        // Held first: what is found afterwards stays.
        let lease = self.hold(digest);
        let root = self.get(digest)?;
        touch(&root.path);
        Some((root, lease))
    }

    /// A lease on the place of a root, whether it is there or not.
    fn hold(&self, digest: &str) -> RootLease {
        let mut leases = self.leases();
        leases.retain(|_, lease| lease.strong_count() > 0);
        let held = leases.get(digest).and_then(Weak::upgrade).unwrap_or_else(|| {
            let held = Arc::new(());
            leases.insert(digest.to_owned(), Arc::downgrade(&held));
            held
        });
        RootLease { _use: held }
    }

    /// Puts a finished file in place, with a lease on it. Blocks while the disk takes it.
    pub fn put(&self, file: &Path, manifest: &RootManifest) -> io::Result<(Root, RootLease)> {
        let lease = self.hold(&manifest.digest);
        let home = self.home(&manifest.digest);
        match fs::create_dir(&home) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = home.join(ROOTFS);
        // A machine that loses power must not come back with a manifest and an empty file.
        File::open(file)?.sync_all()?;
        fs::rename(file, &path)?;
        let next = home.join("manifest.next");
        fs::write(&next, serde_json::to_vec_pretty(manifest)?)?;
        File::open(&next)?.sync_all()?;
        fs::rename(next, home.join(MANIFEST))?;
        File::open(&home)?.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        Ok((Root { manifest: manifest.clone(), path }, lease))
    }

    /// Removes a root unless it is in use; whether it is gone. A VM that still has the file open
    /// goes on.
    pub fn evict(&self, digest: &str) -> bool {
        let leases = self.leases();
        if leases.get(digest).is_some_and(|lease| lease.strong_count() > 0) {
            return false;
        }
        let home = self.home(digest);
        // The manifest first: what is left of a removal that is cut short is nothing.
        let _ = fs::remove_file(home.join(MANIFEST));
        fs::remove_dir_all(&home).is_ok()
    }

    /// Everything here.
    pub fn list(&self) -> io::Result<Vec<CachedRoot>> {
        let mut roots = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(root) = name.to_str().and_then(|hex| self.get(&format!("sha256:{hex}")))
            else {
                continue;
            };
            let Ok(found) = root.path.metadata() else { continue };
            let digest = root.manifest.digest;
            let in_use = self.leases().get(&digest).is_some_and(|lease| lease.strong_count() > 0);
            let last_used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            roots.push(CachedRoot { digest, size_bytes: found.blocks() * 512, last_used, in_use });
        }
        Ok(roots)
    }
}

/// Without the new time it is evicted a little sooner.
fn touch(path: &Path) {
    if let Ok(file) = File::options().append(true).open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(digest: &str) -> RootManifest {
        RootManifest {
            digest: digest.to_owned(),
            size_bytes: 4,
            manifest_digest: None,
            config: RootConfig::default(),
        }
    }

    #[test]
    fn a_root_in_use_stays_and_a_half_made_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::open(dir.path().join("roots")).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "root").unwrap();
        roots.put(&file, &manifest("sha256:aa")).unwrap();
        let (root, lease) = roots.lease("sha256:aa").unwrap();
        assert_eq!(fs::read(&root.path).unwrap(), b"root");
        let other = roots.lease("sha256:aa").unwrap().1;
        drop(lease);
        assert!(roots.list().unwrap()[0].in_use && !roots.evict("sha256:aa"));
        drop(other);
        fs::create_dir(dir.path().join("roots/bb")).unwrap();
        let roots = Roots::open(dir.path().join("roots")).unwrap();
        assert!(!dir.path().join("roots/bb").exists());
        assert!(roots.evict("sha256:aa") && roots.list().unwrap().is_empty());
        assert!(roots.lease("sha256:aa").is_none());
    }
}

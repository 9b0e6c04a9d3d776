//! Slots of the cache: directories that are whole once their manifest is in place.
//!
//! ```text
//! <slot>/manifest.json   written last; without it nothing in the slot is used
//!        <files>         what the manifest speaks of
//!        work-XXXX/      what a filler is making; the next filler removes what a killed one left
//! ```
//!
//! The filler holds a lock on the slot's directory, which the kernel gives up when it dies, so
//! two processes never make the same thing twice. A program that a killed filler left running
//! only knows its own work directory and cannot touch what the next filler makes.

use std::{
    fs::{self, File},
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::FlockOperation;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};

use super::{AssetError, Progress, io_failed};

const MANIFEST: &str = "manifest.json";
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const CLEAR_LIMIT: Duration = Duration::from_secs(30);

/// One slot, described by a manifest of type `M`.
#[derive(Debug)]
pub struct Slot<M> {
    dir: PathBuf,
    manifest: PhantomData<M>,
}

/// Where a filler works.
#[derive(Debug)]
pub struct Workshop {
    /// For what is needed only on the way.
    pub temporary: PathBuf,
    /// For what the slot shall hold.
    pub result: PathBuf,
}

impl<M: Serialize + DeserializeOwned> Slot<M> {
    /// The slot at `dir`, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, manifest: PhantomData }
    }

    /// Path of a file in the slot.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The manifest, if the slot is whole.
    pub fn manifest(&self) -> Option<M> {
        fs::read(self.path(MANIFEST)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// Fills the slot with what `make` leaves in its workshop, unless someone else did meanwhile.
    pub async fn fill<F, Made>(&self, progress: &Progress, make: F) -> Result<M, AssetError>
    where
        F: FnOnce(Workshop) -> Made,
        Made: Future<Output = Result<M, AssetError>>,
    {
        fs::create_dir_all(&self.dir).map_err(io_failed("make", &self.dir))?;
        let lock = lock(&self.dir, progress).await?;
        if let Some(manifest) = self.manifest() {
            return Ok(manifest);
        }
        self.clear().await.map_err(io_failed("clear", &self.dir))?;
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(&self.dir)
            .map_err(io_failed("make a work directory in", &self.dir))?;
        let workshop = Workshop {
            temporary: work.path().join("temporary"),
            result: work.path().join("result"),
        };
        let result = workshop.result.clone();
        for dir in [&workshop.temporary, &workshop.result] {
            fs::create_dir(dir).map_err(io_failed("make", dir))?;
        }
        let manifest = make(workshop).await?;
        let commit = || self.commit(&lock, &result, &manifest);
        tokio::task::block_in_place(commit).map_err(io_failed("fill", &self.dir))?;
        Ok(manifest)
    }

    /// A program that a killed filler left may still be writing into its work directory; it ends
    /// once that is gone.
    async fn clear(&self) -> io::Result<()> {
        let deadline = Instant::now() + CLEAR_LIMIT;
        loop {
            match self.remove_all() {
                Err(error)
                    if error.kind() == io::ErrorKind::DirectoryNotEmpty
                        && Instant::now() < deadline =>
                {
                    sleep(RETRY_INTERVAL).await;
                }
                result => return result,
            }
        }
    }

    fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }

    fn commit(&self, dir: &File, result: &Path, manifest: &M) -> io::Result<()> {
        for entry in fs::read_dir(result)? {
            let entry = entry?;
            fs::rename(entry.path(), self.dir.join(entry.file_name()))?;
        }
        let next = result.join(MANIFEST);
        fs::write(&next, serde_json::to_vec_pretty(manifest)?)?;
        // A machine that loses power must not come back with a manifest and empty files.
        rustix::fs::syncfs(dir)?;
        fs::rename(next, self.path(MANIFEST))
    }
}

/// Takes the exclusive lock on a directory; it lasts as long as the returned file.
pub async fn lock(dir: &Path, progress: &Progress) -> Result<File, AssetError> {
    let file = File::open(dir).map_err(io_failed("open", dir))?;
    let mut told = false;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(io_failed("lock", dir)(error.into())),
        }
        if !told {
            progress(&format!("waiting for another process to fill {}", dir.display()));
            told = true;
        }
        sleep(RETRY_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SILENT: &Progress = &|_| {};

    async fn make(workshop: Workshop, text: &str) -> Result<String, AssetError> {
        fs::write(workshop.result.join("file"), text).unwrap();
        fs::write(workshop.temporary.join("rubbish"), text).unwrap();
        Ok(text.to_owned())
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_fillers_at_once_one_does_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let made = AtomicUsize::new(0);
        let fillers = (0..8).map(|_| async {
            let slot = Slot::<String>::new(dir.path().join("slot"));
            slot.fill(SILENT, |workshop| {
                made.fetch_add(1, Ordering::Relaxed);
                make(workshop, "made")
            })
            .await
            .unwrap()
        });
        let manifests = futures_util::future::join_all(fillers).await;
        assert_eq!((made.load(Ordering::Relaxed), manifests.len()), (1, 8));
        assert_eq!(names(&dir.path().join("slot")), ["file", "manifest.json"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_killed_filler_left_is_not_taken_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::<String>::new(dir.path().join("slot"));
        fs::create_dir_all(slot.path("work-old/result")).unwrap();
        fs::write(slot.path("file"), "half").unwrap();
        assert_eq!(slot.manifest(), None);
        slot.fill(SILENT, |workshop| make(workshop, "whole")).await.unwrap();
        assert_eq!(fs::read_to_string(slot.path("file")).unwrap(), "whole");
        assert_eq!(names(&slot.dir), ["file", "manifest.json"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_filler_leaves_the_slot_empty_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::<String>::new(dir.path().join("slot"));
        let failed = |_| async { Err(AssetError::UnknownImage { name: "x".to_owned() }) };
        slot.fill(SILENT, failed).await.unwrap_err();
        assert_eq!(names(&slot.dir), [""; 0]);
        assert_eq!(slot.fill(SILENT, |workshop| make(workshop, "ok")).await.unwrap(), "ok");
    }
}

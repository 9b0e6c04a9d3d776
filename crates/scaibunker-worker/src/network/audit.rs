//! Takes what the gateway writes down to the object store.
//!
//! The gateway appends lines to a file for each bunker; here complete lines are stored as an object
//! and then cut out of the file, whose beginning becomes a hole. So the file itself tells what is left
//! to store, also to the next server after a crash, and takes no more disk than that.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Body;
use jiff::Timestamp;
use rustix::{
    fs::{FallocateFlags, fallocate, seek},
    io::Errno,
};
use scaibunker_api::ids::BunkerId;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    chain,
    storage::{StorageClient, StorageError},
};

/// How often lines are stored.
const INTERVAL: Duration = Duration::from_secs(5);

/// Of one object.
const MAX_BATCH_BYTES: u64 = 4 << 20;

/// What a server that stops waits for.
const LAST_LIMIT: Duration = Duration::from_secs(10);

/// The audit logs of this worker's bunkers.
pub struct AuditLogs {
    dir: PathBuf,
    storage: Arc<StorageClient>,
    /// Bunkers whose logs go on.
    open: Mutex<HashSet<BunkerId>>,
    closed: Notify,
}

/// A batch could not be stored.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error("cannot {what} an audit log")]
    Io { what: &'static str, source: io::Error },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ShipError {
    move |source| ShipError::Io { what, source }
}

impl AuditLogs {
    /// Those in `dir`, which is made.
    pub fn new(dir: PathBuf, storage: Arc<StorageClient>) -> io::Result<Arc<Self>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Arc::new(Self { dir, storage, open: Mutex::default(), closed: Notify::new() }))
    }

    /// The log of a bunker, to append to.
    pub fn open(&self, id: BunkerId) -> io::Result<File> {
        let mut open = self.opened();
        open.insert(id);
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.path(id))
    }

    /// Nothing more is appended to the log: it goes once it is stored.
    pub fn close(&self, id: BunkerId) {
        if self.opened().remove(&id) {
            self.closed.notify_one();
        }
    }

    fn opened(&self) -> MutexGuard<'_, HashSet<BunkerId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: BunkerId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Stores what is there every few seconds, and a last time after the token was cancelled. What
    /// cannot be stored waits for the next time, or for the next server.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            self.store_all().await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.closed.notified() => {}
                () = shutdown.cancelled() => {}
            }
        }
        if timeout(LAST_LIMIT, self.store_all()).await.is_err() {
            tracing::warn!("audit logs are not stored yet; the next start stores them");
        }
    }

    async fn store_all(&self) {
        let names = match fs::read_dir(&self.dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()),
            Err(error) => return tracing::warn!(%error, "cannot list audit logs"),
        };
        for id in names.filter_map(|name| name.to_str()?.parse().ok()) {
            if let Err(error) = self.store(id).await {
                tracing::warn!(bunker_id = %id, error = chain(&error), "an audit log waits");
            }
        }
    }

    async fn store(&self, id: BunkerId) -> Result<(), ShipError> {
        let path = self.path(id);
        loop {
            let from = path.clone();
            let batch = tokio::task::spawn_blocking(move || read_batch(&from)).await;
            let batch = batch.map_err(io::Error::from).and_then(std::convert::identity);
            let Some(Batch { lines, end }) = batch.map_err(failed("read"))? else { break };
            let (now, pid) = (Timestamp::now().as_microsecond(), std::process::id());
            let key = format!("audit/{id}/{now}-{pid}.ndjson");
            self.storage.put(&key, Body::from(lines)).await?;
            cut(&path, end).map_err(failed("cut"))?;
        }
        self.remove_if_done(id).map_err(failed("remove"))
    }

    /// Nobody opens it meanwhile, and who had it open has appended the last line before it was
    /// closed.
    fn remove_if_done(&self, id: BunkerId) -> io::Result<()> {
        let (open, path) = (self.opened(), self.path(id));
        if !open.contains(&id) && read_batch(&path)?.is_none() {
            fs::remove_file(&path)?;
        }
        Ok(())
    }
}

/// Lines that are not stored yet.
struct Batch {
    lines: Vec<u8>,
    /// Where they end in the file.
    end: u64,
}

/// The first lines of the file, without what was cut; `None` when there is none that is complete.
fn read_batch(path: &Path) -> io::Result<Option<Batch>> {
    let mut file = File::open(path)?;
    let start = match seek(&file, rustix::fs::SeekFrom::Data(0)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(MAX_BATCH_BYTES).read_to_end(&mut bytes)?;
    // A hole ends at the border of a block, and what was cut of that block is zeroes.
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
    let lines = bytes[skip..=last].to_vec();
    Ok(Some(Batch { lines, end: start + last as u64 + 1 }))
}

/// Frees everything up to `end`.
fn cut(path: &Path, end: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    Ok(fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, end)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn each_line_is_read_once_however_often_the_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        assert!(read_batch(&path).unwrap().is_none());
        let mut expected = Vec::new();
        let mut read = Vec::new();
        for number in 0..3_000 {
            let line = format!("{{\"number\":{number}}}\n");
            log.write_all(line.as_bytes()).unwrap();
            expected.extend_from_slice(line.as_bytes());
            if number % 700 == 0 {
                // One that is being written stays for the next time.
                log.write_all(b"half").unwrap();
                let Batch { lines, end } = read_batch(&path).unwrap().unwrap();
                read.extend_from_slice(&lines);
                cut(&path, end).unwrap();
                assert!(read_batch(&path).unwrap().is_none());
                log.write_all(b"\n").unwrap();
                expected.extend_from_slice(b"half\n");
            }
        }
        read.extend_from_slice(&read_batch(&path).unwrap().unwrap().lines);
        assert!(read == expected);
    }
}

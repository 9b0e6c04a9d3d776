//! One layer on its way into the cache: hashed as it comes, resumed where it broke off.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use http::{Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use super::{LayerCache, LayerLease, OciError, manifest::Blob};
use crate::assets::hexadecimal;

/// A registry that sends nothing for this long is asked anew.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Attempts in a row that bring nothing at all.
const IDLE_ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const PIECE_BYTES: usize = 256 * 1024;

/// Where blobs come from.
pub trait Source {
    /// The blob's bytes from that one on, or from the beginning if the source can't do otherwise.
    fn open(
        &self,
        blob: &Blob,
        from: u64,
    ) -> impl Future<Output = Result<Response<Incoming>, OciError>> + Send;
    /// For error texts.
    fn name(&self) -> &str;
}

/// A blob that has come in part.
struct Partial {
    file: File,
    hash: Sha256,
    size_bytes: u64,
}

/// Why an attempt ended.
enum Ended {
    Whole,
    Broke(String),
}

/// The blob in the cache, fetched unless it is there. `progress` is told how many bytes are.
pub async fn into_cache(
    cache: &LayerCache,
    blob: &Blob,
    source: &impl Source,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<LayerLease, OciError> {
    let lease = cache.lease(&blob.digest)?;
    let only_one = lease.slot().fetching.lock().await;
    if lease.is_there(blob.size_bytes) {
        progress(blob.size_bytes);
        drop(only_one);
        return Ok(lease);
    }
    let path = lease.partial_path();
    let mut partial = Partial::open(&path, blob.size_bytes).await?;
    let (mut idle, mut pause) = (0, FIRST_PAUSE);
    while partial.size_bytes < blob.size_bytes {
        let before = partial.size_bytes;
        let reason = match partial.fetch(&path, blob, source, progress).await {
            Ok(Ended::Whole) => break,
            Ok(Ended::Broke(reason)) | Err(OciError::Unreachable { reason, .. }) => reason,
            Err(error) => return Err(error),
        };
        if partial.size_bytes > before {
            (idle, pause) = (0, FIRST_PAUSE);
        }
        idle += 1;
        if idle == IDLE_ATTEMPTS {
            return Err(OciError::Unreachable { registry: source.name().to_owned(), reason });
        }
        tracing::debug!(digest = blob.digest, reason, "a layer broke off; going on");
        sleep(pause).await;
        pause *= 2;
    }
    partial.finish(&path, blob, lease.path(), cache.dir()).await?;
    progress(blob.size_bytes);
    drop(only_one);
    Ok(lease)
}

impl Partial {
    /// Takes up what an earlier download left.
    async fn open(path: &Path, size_bytes: u64) -> Result<Self, OciError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).await.map_err(OciError::io("open", path))?;
        let found = file.metadata().await.map_err(OciError::io("read", path))?.len();
        let mut partial = Self { file, hash: Sha256::new(), size_bytes: 0 };
        if found > size_bytes {
            partial.start_over(path).await?;
            return Ok(partial);
        }
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = partial.file.read(&mut piece).await.map_err(OciError::io("read", path))?;
            if count == 0 {
                return Ok(partial);
            }
            partial.hash.update(&piece[..count]);
            partial.size_bytes += count as u64;
        }
    }

    async fn start_over(&mut self, path: &Path) -> Result<(), OciError> {
        self.file.set_len(0).await.map_err(OciError::io("shorten", path))?;
        self.file.rewind().await.map_err(OciError::io("rewind", path))?;
        (self.hash, self.size_bytes) = (Sha256::new(), 0);
        Ok(())
    }

    /// One request, as far as it comes.
    async fn fetch(
        &mut self,
        path: &Path,
        blob: &Blob,
        source: &impl Source,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Ended, OciError> {
        let answer = source.open(blob, self.size_bytes).await?;
        if self.size_bytes > 0 && !continues_at(&answer, self.size_bytes) {
            self.start_over(path).await?;
        }
        let mut body = answer.into_body();
        loop {
            let piece = match timeout(STALL_LIMIT, body.frame()).await {
                Err(_) => return Ok(Ended::Broke("it sends nothing more".to_owned())),
                Ok(Some(Err(error))) => return Ok(Ended::Broke(crate::chain(&error))),
                Ok(None) if self.size_bytes == blob.size_bytes => return Ok(Ended::Whole),
                Ok(None) => return Ok(Ended::Broke("it sent less than it promised".to_owned())),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => piece,
                    Err(_) => continue,
                },
            };
            if self.size_bytes + piece.len() as u64 > blob.size_bytes {
                let message = format!("a layer is longer than its {} bytes", blob.size_bytes);
                self.start_over(path).await?;
                return Err(OciError::Corrupt(message));
            }
            self.file.write_all(&piece).await.map_err(OciError::io("write", path))?;
            self.hash.update(&piece);
            self.size_bytes += piece.len() as u64;
            progress(self.size_bytes);
        }
    }

    /// Puts the whole blob in place, if it is the one that was meant.
    async fn finish(
        mut self,
        path: &Path,
        blob: &Blob,
        place: &Path,
        dir: &Path,
    ) -> Result<(), OciError> {
        self.file.flush().await.map_err(OciError::io("write", path))?;
        let found = format!("sha256:{}", hexadecimal(&self.hash.finalize()));
        if found != blob.digest {
            // What is there is of no use to the next attempt.
            tokio::fs::remove_file(path).await.map_err(OciError::io("remove", path))?;
            let expected = blob.digest.clone();
            return Err(OciError::Digest { what: "a layer", expected, found });
        }
        // A machine that loses power must not come back with a layer of zeros under its name.
        self.file.sync_all().await.map_err(OciError::io("write", path))?;
        let file = self.file.into_std().await;
        // Without the new time it is evicted a little sooner.
        let _ = file.set_modified(SystemTime::now());
        tokio::fs::rename(path, place).await.map_err(OciError::io("rename", path))?;
        let dir_file = File::open(dir).await.map_err(OciError::io("open", dir))?;
        dir_file.sync_all().await.map_err(OciError::io("write", dir))
    }
}

/// Whether an answer goes on where the last one broke off.
fn continues_at(answer: &Response<Incoming>, from: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    answer.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

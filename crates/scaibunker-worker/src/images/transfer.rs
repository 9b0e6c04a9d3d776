//! Roots and archives on their way from and to the storage proxy, in bounded memory.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use scaibunker_api::worker::{BakedRoot, ImageFaultCause};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::AsyncWriteExt as _,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::fault::{self, Fault};
use crate::{assets::hexadecimal, storage::StorageClient};

const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A proxy that sends nothing for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces between the network and the thread that works on them.
const PIECES: usize = 8;
/// Quick, and a third of the size for most file systems.
const COMPRESSION_LEVEL: i32 = 1;
/// What an honest sender uses; a larger window would be memory that it chooses.
const MAX_WINDOW_LOG: u32 = 23;
const BLOCK_BYTES: usize = 4096;

/// Pieces as they come. Dropping the second ends the first.
type Pieces = (mpsc::Receiver<io::Result<Bytes>>, AbortOnDropHandle<()>);

/// Fetches a root into `file`, which must be the one that was baked.
pub async fn fetch_root(
    storage: &StorageClient,
    baked: &BakedRoot,
    file: &Path,
    progress: impl Fn(u8) + Clone + Send + Sync + 'static,
) -> Result<(), Fault> {
    let mut patience = Patience::default();
    loop {
        let pieces = open(storage, &baked.key).await;
        let fetched = match pieces {
            Ok((pieces, _pump)) => {
                let (baked, path, progress) = (baked.clone(), file.to_owned(), progress.clone());
                let unpacking = tokio::task::spawn_blocking(move || {
                    unpack(PiecesReader::new(pieces), &baked, &path, &progress)
                });
                lost(unpacking.await).and_then(|unpacked| unpacked)
            }
            Err(fault) => Err(fault),
        };
        match fetched {
            Err(fault) if patience.lasts(&fault).await => {}
            done => return done,
        }
    }
}

/// Stores the root in `file` under the key.
pub async fn store_root(storage: &StorageClient, key: &str, file: &Path) -> Result<(), Fault> {
    let mut patience = Patience::default();
    loop {
        let (sender, packed) = mpsc::channel(PIECES);
        let path = file.to_owned();
        // It ends when the file does, or when nobody takes its pieces any more.
        tokio::task::spawn_blocking(move || pack(&path, &sender));
        let body = Body::from_stream(ReceiverStream::new(packed));
        match storage.put(key, body).await.map_err(Fault::from) {
            Err(fault) if patience.lasts(&fault).await => {}
            done => return done,
        }
    }
}

/// Fetches an object into `file` as it is.
pub async fn fetch_object(
    storage: &StorageClient,
    key: &str,
    file: &Path,
    max_bytes: u64,
) -> Result<(), Fault> {
    let mut patience = Patience::default();
    loop {
        match fetch_object_once(storage, key, file, max_bytes).await {
            Err(fault) if patience.lasts(&fault).await => {}
            done => return done,
        }
    }
}

async fn fetch_object_once(
    storage: &StorageClient,
    key: &str,
    file: &Path,
    max_bytes: u64,
) -> Result<(), Fault> {
    let (mut pieces, _pump) = open(storage, key).await?;
    let failed = |error: io::Error| Fault(fault::of_io("write", file, &error));
    let mut target = tokio::fs::File::create(file).await.map_err(failed)?;
    let mut size_bytes = 0;
    while let Some(piece) = pieces.recv().await {
        let piece = piece.map_err(|error| broke_off(&error))?;
        size_bytes += piece.len() as u64;
        if size_bytes > max_bytes {
            let message = format!("image refused: the archive has over {max_bytes} bytes");
            return Err(fault::of(ImageFaultCause::Refused, message).into());
        }
        target.write_all(&piece).await.map_err(failed)?;
    }
    target.flush().await.map_err(failed)
}

/// How often a failing proxy is asked again.
struct Patience {
    attempts_left: u32,
    pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts_left: ATTEMPTS, pause: FIRST_PAUSE }
    }
}

impl Patience {
    /// Waits for the next attempt, if the fault is the proxy's and there is one left.
    async fn lasts(&mut self, Fault(fault): &Fault) -> bool {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        if fault.cause != ImageFaultCause::Storage || self.attempts_left == 0 {
            return false;
        }
        tracing::warn!(error = fault.message, "the storage proxy is tried again");
        sleep(self.pause).await;
        self.pause *= 2;
        true
    }
}

/// The object's pieces, read by a task of its own that ends with them.
async fn open(storage: &StorageClient, key: &str) -> Result<Pieces, Fault> {
    let object = timeout(STALL_LIMIT, storage.get(key)).await;
    let object = object.map_err(|_| broke_off(&io::ErrorKind::TimedOut.into()))??;
    let (sender, pieces) = mpsc::channel(PIECES);
    let pump = AbortOnDropHandle::new(tokio::spawn(pump(object, sender)));
    Ok((pieces, pump))
}

async fn pump(object: Incoming, sender: mpsc::Sender<io::Result<Bytes>>) {
    let mut object = object.into_data_stream().map_err(io::Error::other);
    loop {
        let piece = match timeout(STALL_LIMIT, object.try_next()).await {
            Ok(Ok(Some(piece))) => Ok(piece),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let is_last = piece.is_err();
        if sender.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

fn broke_off(error: &io::Error) -> Fault {
    let message = format!("the storage proxy failed: the object broke off: {error}");
    Fault(fault::of(ImageFaultCause::Storage, message))
}

fn lost<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, Fault> {
    joined.map_err(|error| {
        Fault(fault::of(ImageFaultCause::Internal, format!("internal error: {error}")))
    })
}

/// Uncompresses a root into a file with holes where it is empty.
fn unpack(
    pieces: PiecesReader,
    baked: &BakedRoot,
    path: &Path,
    progress: &dyn Fn(u8),
) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault(fault::of_io("write", path, &error));
    let mut decoder = zstd::Decoder::new(pieces).map_err(failed)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
    let mut file = File::create(path).map_err(failed)?;
    let (mut hash, mut done) = (Sha256::new(), 0u64);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // The proxy's failures and damaged frames come here alike.
        let count = decoder.read(&mut piece).map_err(|error| broke_off(&error))?;
        if count == 0 {
            break;
        }
        done += count as u64;
        if done > baked.size_bytes {
            break;
        }
        hash.update(&piece[..count]);
        write_sparse(&mut file, &piece[..count]).map_err(failed)?;
        progress((done.saturating_mul(100) / baked.size_bytes.max(1)).min(100) as u8);
    }
    file.set_len(baked.size_bytes).map_err(failed)?;
    let found = format!("sha256:{}", hexadecimal(&hash.finalize()));
    if done != baked.size_bytes || found != baked.digest {
        let message = format!(
            "digest mismatch: the stored root file system should be {} and is {found}",
            baked.digest
        );
        return Err(fault::of(ImageFaultCause::DigestMismatch, message).into());
    }
    Ok(())
}

fn write_sparse(file: &mut File, piece: &[u8]) -> io::Result<()> {
    for block in piece.chunks(BLOCK_BYTES) {
        if block.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(block.len() as i64))?;
        } else {
            file.write_all(block)?;
        }
    }
    Ok(())
}

fn pack(path: &Path, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let packed = File::open(path).and_then(|mut file| {
        let writer = io::BufWriter::with_capacity(PIECE_BYTES, PiecesWriter { sender });
        let mut encoder = zstd::Encoder::new(writer, COMPRESSION_LEVEL)?;
        io::copy(&mut file, &mut encoder)?;
        encoder.finish()?.flush()
    });
    if let Err(error) = packed {
        // An error in the body keeps the proxy from storing half of it.
        let _ = sender.blocking_send(Err(error));
    }
}

struct PiecesWriter<'a> {
    sender: &'a mpsc::Sender<io::Result<Bytes>>,
}

impl io::Write for PiecesWriter<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads pieces as they come, in a thread that may wait.
struct PiecesReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl PiecesReader {
    fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl io::Read for PiecesReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// The key under which a root is stored.
pub fn key_of(image_id: scaibunker_api::ids::ImageId, digest: &str) -> String {
    format!("images/{image_id}/{}.ext4.zst", digest.trim_start_matches("sha256:"))
}

/// A file that is gone when this is dropped, unless it was moved away.
pub struct Scrap(PathBuf);

impl Scrap {
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

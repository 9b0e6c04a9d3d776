//! A stored root file system, brought into a file.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt as _;
use scaibunker_api::worker::BakedRoot;
use scaibunker_storage::Objects;
use sha2::{Digest as _, Sha256};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::trivy::ScanError;

const PIECE_BYTES: usize = 256 * 1024;
const BLOCK_BYTES: usize = 4096;
/// What the workers' compression uses; a larger window would be memory that a worker chooses.
const MAX_WINDOW_LOG: u32 = 23;

/// The file; it is gone when this is dropped.
pub(super) struct RootFile(PathBuf);

impl Drop for RootFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl RootFile {
    /// Brings the root into a new file at `path`, with holes where it is empty, and checks its digest.
    pub(super) async fn fetch(
        objects: &Objects,
        root: &BakedRoot,
        path: PathBuf,
    ) -> Result<Self, ScanError> {
        let object = objects.read(&root.key, None).await?.ok_or(ScanError::NotStored)?;
        let body = object.body.into_data_stream().map_err(io::Error::other);
        let body = SyncIoBridge::new(StreamReader::new(Box::pin(body)));
        let file = Self(path);
        let (path, root) = (file.0.clone(), root.clone());
        let unpacking = tokio::task::spawn_blocking(move || unpack(body, &root, &path));
        unpacking
            .await
            .map_err(io::Error::other)
            .and_then(|done| done)
            .map_err(ScanError::Unpack)?;
        Ok(file)
    }
}

fn unpack(stored: impl Read, root: &BakedRoot, path: &Path) -> io::Result<()> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut decoder = zstd::Decoder::new(stored)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    let mut decoder = decoder.take(root.size_bytes.saturating_add(1));
    let mut file = File::options().write(true).create_new(true).open(path)?;
    let (mut hash, mut size_bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = decoder.read(&mut piece)?;
        if count == 0 {
            break;
        }
        size_bytes += count as u64;
        hash.update(&piece[..count]);
        for block in piece[..count].chunks(BLOCK_BYTES) {
            if block.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(block.len() as i64))?;
            } else {
                file.write_all(block)?;
            }
        }
    }
    file.set_len(root.size_bytes)?;
    if size_bytes != root.size_bytes
        || format!("sha256:{}", crate::hex(&hash.finalize())) != root.digest
    {
        return Err(damaged("it is not what was baked"));
    }
    Ok(())
}

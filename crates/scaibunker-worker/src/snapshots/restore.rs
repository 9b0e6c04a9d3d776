//! A snapshot's disk on its way back from the object store.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use scaibunker_api::ids::PackId;
use scaibunker_snapshot::{Damage, Manifest, PlacedChunk, SnapshotKeys, link::RestoreDisk, pack};

use crate::storage::{StorageClient, StorageError};

/// Packs that are read and unpacked at once.
const PARALLEL: usize = 4;

/// A disk could not be made what a snapshot says.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the snapshot is damaged: {0}")]
    Damaged(#[from] Damage),
    #[error("the snapshot's object {0} is longer than any")]
    TooLong(String),
    #[error("reading the snapshot broke off")]
    BrokeOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the snapshot is of a disk of {snapshot_mb} MiB, and this one has {disk_mb}")]
    Size { snapshot_mb: u64, disk_mb: u64 },
    #[error("cannot write the bunker's disk")]
    Io(#[from] io::Error),
}

/// Writes the snapshot's chunks into `disk`, which has none yet.
pub async fn restore(
    storage: &StorageClient,
    from: &RestoreDisk,
    disk: &Arc<File>,
    disk_bytes: u64,
) -> Result<(), RestoreError> {
    let bytes = read(storage, &from.manifest_key, Manifest::MAX_BYTES).await?;
    let (snapshot, digest) = (from.snapshot_id.to_string(), from.manifest_digest);
    let keys = from.keys.clone();
    let manifest =
        off_the_runtime(move || Ok(Manifest::decode(&keys, &snapshot, bytes, digest)?)).await?;
    if manifest.disk_bytes != disk_bytes {
        let (snapshot_mb, disk_mb) = (manifest.disk_bytes >> 20, disk_bytes >> 20);
        return Err(RestoreError::Size { snapshot_mb, disk_mb });
    }
    let unpacking = manifest.chunks_by_pack().into_iter().map(|(id, chunks)| {
        let key = format!("{}{id}", from.pack_prefix);
        let (keys, disk) = (from.keys.clone(), Arc::clone(disk));
        async move {
            let bytes = read(storage, &key, pack::MAX_BYTES).await?;
            off_the_runtime(move || unpack(&keys, id, &chunks, &bytes, &disk)).await
        }
    });
    stream::iter(unpacking).buffer_unordered(PARALLEL).try_collect().await
}

fn unpack(
    keys: &SnapshotKeys,
    id: PackId,
    chunks: &[PlacedChunk],
    bytes: &[u8],
    disk: &File,
) -> Result<(), RestoreError> {
    let name = id.to_string();
    for chunk in chunks {
        disk.write_all_at(&pack::open(keys, &name, chunk, bytes)?, chunk.start())?;
    }
    Ok(())
}

async fn read(
    storage: &StorageClient,
    key: &str,
    max_bytes: usize,
) -> Result<Vec<u8>, RestoreError> {
    let body = Limited::new(storage.get(key).await?, max_bytes).collect().await;
    match body {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(RestoreError::TooLong(key.to_owned())),
        Err(error) => Err(RestoreError::BrokeOff(error)),
    }
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::from)?
}

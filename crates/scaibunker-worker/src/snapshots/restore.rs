//! A snapshot's disk on its way back from the object store.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use scaibunker_api::ids::PackId;
use scaibunker_snapshot::{
    CHUNK_BYTES, Damage, Manifest, PlacedChunk, SnapshotKeys,
    link::RestoreDisk,
    pack::{self, MAX_CHUNKS, MAX_ENTRY_BYTES},
};

use crate::storage::{StorageClient, StorageError};

/// Packs that are read and unpacked at once.
const PARALLEL: usize = 4;
const MAX_PACK_BYTES: usize = MAX_CHUNKS * MAX_ENTRY_BYTES;
const MAX_MANIFEST_BYTES: usize = 256 << 20;

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
    let bytes = read(storage, &from.manifest_key, MAX_MANIFEST_BYTES).await?;
    let (snapshot, digest) = (from.snapshot_id.to_string(), from.manifest_digest);
    let keys = from.keys.clone();
    let manifest =
        off_the_runtime(move || Ok(Manifest::decode(&keys, &snapshot, bytes, digest)?)).await?;
    if manifest.disk_bytes != disk_bytes {
        let (snapshot_mb, disk_mb) = (manifest.disk_bytes >> 20, disk_bytes >> 20);
        return Err(RestoreError::Size { snapshot_mb, disk_mb });
    }
    let mut by_pack: BTreeMap<u32, Vec<PlacedChunk>> = BTreeMap::new();
    for chunk in manifest.chunks {
        by_pack.entry(chunk.pack).or_default().push(chunk);
    }
    // Every chunk's pack is one of the manifest's: a sound manifest says so.
    let packs = by_pack
        .into_iter()
        .filter_map(|(pack, chunks)| Some((*manifest.packs.get(pack as usize)?, chunks)));
    let unpacking = packs.map(|(pack, chunks)| {
        let key = format!("{}{pack}", from.pack_prefix);
        let (keys, disk) = (from.keys.clone(), Arc::clone(disk));
        async move {
            let bytes = read(storage, &key, MAX_PACK_BYTES).await?;
            off_the_runtime(move || unpack(&keys, pack, &chunks, &bytes, &disk)).await
        }
    });
    stream::iter(unpacking).buffer_unordered(PARALLEL).try_collect().await
}

fn unpack(
    keys: &SnapshotKeys,
    pack: PackId,
    chunks: &[PlacedChunk],
    bytes: &[u8],
    disk: &File,
) -> Result<(), RestoreError> {
    let name = pack.to_string();
    for PlacedChunk { index, entry, .. } in chunks {
        let start = u64::from(*index) * CHUNK_BYTES as u64;
        let at = start >> 20;
        let begin = entry.offset as usize;
        let packed = bytes.get(begin..begin + entry.length as usize);
        let packed = packed.ok_or(Damage::Chunk { at, why: "its pack is cut off" })?;
        let contents = pack::open(keys, &name, entry, packed.to_vec(), at)?;
        disk.write_all_at(&contents, start)?;
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

//! A snapshot on its way back from the object store.

use std::{io, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use scaibunker_api::ids::PackId;
use scaibunker_snapshot::{
    Damage, Manifest, PlacedChunk, SnapshotKeys, link::RestoreSnapshot, pack,
};

use super::Parts;
use crate::storage::{StorageClient, StorageError};

/// Packs that are read and unpacked at once.
const PARALLEL: usize = 4;

/// A bunker could not be made what a snapshot says.
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
    #[error("the snapshot is of a bunker with another disk or another memory")]
    Size,
    #[error("cannot write what the snapshot holds")]
    Io(#[from] io::Error),
}

/// What a snapshot consists of.
pub async fn manifest(
    storage: &StorageClient,
    from: &RestoreSnapshot,
) -> Result<Manifest, RestoreError> {
    let bytes = read(storage, &from.manifest_key, Manifest::MAX_BYTES).await?;
    let (snapshot, digest) = (from.snapshot_id.to_string(), from.manifest_digest);
    let keys = from.keys.clone();
    off_the_runtime(move || Ok(Manifest::decode(&keys, &snapshot, bytes, digest)?)).await
}

/// Writes the snapshot's chunks into `parts`, which have none yet.
pub async fn fill(
    storage: &StorageClient,
    from: &RestoreSnapshot,
    manifest: &Manifest,
    parts: &Arc<Parts>,
) -> Result<(), RestoreError> {
    let unpacking = manifest.chunks_by_pack().into_iter().map(|(id, chunks)| {
        let key = format!("{}{id}", from.pack_prefix);
        let (keys, parts) = (from.keys.clone(), Arc::clone(parts));
        async move {
            let bytes = read(storage, &key, pack::MAX_BYTES).await?;
            off_the_runtime(move || unpack(&keys, id, &chunks, &bytes, &parts)).await
        }
    });
    stream::iter(unpacking).buffer_unordered(PARALLEL).try_collect().await
}

fn unpack(
    keys: &SnapshotKeys,
    id: PackId,
    chunks: &[PlacedChunk],
    bytes: &[u8],
    parts: &Parts,
) -> Result<(), RestoreError> {
    let name = id.to_string();
    for chunk in chunks {
        parts.write(chunk.index, &pack::open(keys, &name, chunk, bytes)?)?;
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

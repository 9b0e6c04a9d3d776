//! Chunks of a copy on their way into packs.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use scaibunker_api::ids::SnapshotId;
use scaibunker_snapshot::{
    FoundChunk, Manifest, PlacedChunk,
    link::{NewPack, StoreSnapshot, StoredPack, StoredSnapshot},
    pack::{MAX_CHUNKS, PackWriter},
};
use tokio::time::sleep;

use super::Staged;
use crate::storage::{StorageClient, StorageError};

/// Packs that are made and stored at once: each takes memory, and a core while it is made.
const PARALLEL: usize = 3;

const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A copy's chunks could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot read the copy")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the controller asked for what the copy has not got")]
    Asked,
}

/// Stores the new packs and then the manifest.
pub async fn store(
    storage: &StorageClient,
    staged: &Staged,
    id: SnapshotId,
    ask: StoreSnapshot,
) -> Result<StoredSnapshot, StoreError> {
    let StoreSnapshot { mut packs, known, new_packs, manifest_key } = ask;
    let storing = new_packs.into_iter().map(|pack| store_pack(storage, staged, pack));
    let stored: Vec<StoredPack> = stream::iter(storing).buffered(PARALLEL).try_collect().await?;

    let mut places: HashMap<_, _> =
        known.into_iter().map(|known| (known.entry.name, (known.pack, known.entry))).collect();
    for pack in &stored {
        let number = u32::try_from(packs.len()).map_err(|_| StoreError::Asked)?;
        packs.push(pack.id);
        places.extend(pack.entries.iter().map(|entry| (entry.name, (number, *entry))));
    }
    let placed = staged.chunks.iter().map(|chunk| {
        let (pack, entry) = *places.get(&chunk.name)?;
        Some(PlacedChunk { index: chunk.index, pack, entry })
    });
    let chunks = placed.collect::<Option<_>>().ok_or(StoreError::Asked)?;
    let manifest =
        Manifest { layout: staged.parts.layout(), packs, chunks, execs: staged.execs.clone() };
    let (keys, name) = (staged.keys.clone(), id.to_string());
    let encode = move || manifest.encode(&keys, &name);
    let (bytes, manifest_digest) = on_own_thread(encode).await?;
    let manifest_bytes = bytes.len() as u64;
    put(storage, &manifest_key, bytes.into()).await?;
    Ok(StoredSnapshot { packs: stored, manifest_digest, manifest_bytes })
}

async fn store_pack(
    storage: &StorageClient,
    staged: &Staged,
    NewPack { id, key, chunks }: NewPack,
) -> Result<StoredPack, StoreError> {
    if chunks.len() > MAX_CHUNKS {
        return Err(StoreError::Asked);
    }
    let find = |index| {
        let at = staged.chunks.binary_search_by_key(&index, |chunk| chunk.index).ok()?;
        Some(staged.chunks[at])
    };
    let found: Option<Vec<_>> = chunks.into_iter().map(find).collect();
    let found = found.ok_or(StoreError::Asked)?;
    let (parts, keys) = (Arc::clone(&staged.parts), staged.keys.clone());
    let (bytes, entries) = on_own_thread(move || {
        let pack_id = id.to_string();
        let mut pack = PackWriter::new(&keys, &pack_id);
        for FoundChunk { index, name } in found {
            pack.add(name, &parts.read(index)?)?;
        }
        Ok(pack.finish())
    })
    .await?;
    let size_bytes = bytes.len() as u64;
    put(storage, &key, bytes.into()).await?;
    Ok(StoredPack { id, size_bytes, entries })
}

/// A proxy that fails is asked again; what it refuses is refused.
async fn put(storage: &StorageClient, key: &str, bytes: Bytes) -> Result<(), StoreError> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match storage.put(key, Body::from(bytes.clone())).await {
            Ok(()) => return Ok(()),
            Err(error) if !error.may_pass() => return Err(error.into()),
            Err(error) => tracing::warn!(key, error = crate::chain(&error), "storing again"),
        }
        sleep(pause).await;
        pause *= 2;
    }
    Ok(storage.put(key, Body::from(bytes)).await?)
}

async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::from)??)
}

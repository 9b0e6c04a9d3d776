//! Reading everything of a snapshot and comparing it with what was written.

use axum::body::to_bytes;
use scaibunker_api::{error::ErrorCode, ids::SnapshotId, snapshot::SnapshotCheck};
use scaibunker_snapshot::{Manifest, PlacedChunk, SnapshotKeys, pack};

use super::{Snapshots, pack_key, restorable, seen};
use crate::{
    domain::actor::Actor,
    failure::{Failure, chain, not_ready},
};

/// Of a snapshot that is damaged all over.
const MAX_LINES: usize = 100;

impl Snapshots {
    /// Checks every chunk of a snapshot that the caller sees.
    pub async fn verify(&self, actor: &Actor, id: SnapshotId) -> Result<SnapshotCheck, Failure> {
        let record = seen(&self.store, actor, id).await?;
        let restore = restorable(&record, &self.keys)?;
        let mut check = SnapshotCheck { snapshot_id: id, chunks: 0, damage: Vec::new() };
        let bytes = match self.read(&restore.manifest_key, Manifest::MAX_BYTES).await? {
            Some(bytes) => bytes,
            None => {
                check.damage.push("its manifest is gone".to_owned());
                return Ok(check);
            }
        };
        let decoded =
            Manifest::decode(&restore.keys, &id.to_string(), bytes, restore.manifest_digest);
        let manifest = match decoded {
            Ok(manifest) => manifest,
            Err(damage) => {
                check.damage.push(damage.to_string());
                return Ok(check);
            }
        };
        for (id, chunks) in manifest.chunks_by_pack() {
            let key = pack_key(record.shown.tenant_id, id);
            check.chunks += chunks.len() as u64;
            match self.read(&key, pack::MAX_BYTES).await? {
                None => check.damage.push(format!("the pack {id} is gone")),
                Some(bytes) => {
                    let (keys, id) = (restore.keys.clone(), id.to_string());
                    let found =
                        tokio::task::spawn_blocking(move || damage_in(&keys, &id, &chunks, &bytes));
                    check.damage.extend(found.await.unwrap_or_else(|lost| vec![lost.to_string()]));
                }
            }
            if check.damage.len() > MAX_LINES {
                check.damage.truncate(MAX_LINES);
                check.damage.push("and more".to_owned());
                break;
            }
        }
        Ok(check)
    }

    async fn read(&self, key: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, Failure> {
        let away = |error: &(dyn std::error::Error + 'static)| {
            tracing::warn!(key, error = chain(error), "the object store fails");
            Failure::from(not_ready("the object store cannot be read at the moment; try again"))
        };
        let Some(object) = self.objects.read(key, None).await.map_err(|error| away(&error))? else {
            return Ok(None);
        };
        match to_bytes(object.body, max_bytes).await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => {
                let message =
                    format!("an object of the snapshot cannot be read: {}", chain(&error));
                Err(Failure::new(ErrorCode::SnapshotDamaged, message))
            }
        }
    }
}

fn damage_in(keys: &SnapshotKeys, id: &str, chunks: &[PlacedChunk], bytes: &[u8]) -> Vec<String> {
    let opened = chunks.iter().map(|chunk| pack::open(keys, id, chunk, bytes));
    opened.filter_map(|opened| opened.err().map(|damage| damage.to_string())).collect()
}

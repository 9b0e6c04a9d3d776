//! Snapshots of the simulated worker: every disk is the same, and nothing of it is stored anywhere.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, post, put},
};
use scaibunker_api::{
    error::ErrorCode,
    ids::{BunkerId, SnapshotId},
};
use scaibunker_snapshot::{
    ChunkName, FoundChunk, Layout, Manifest, SnapshotKeys,
    link::{
        StartFromSnapshot, StoreSnapshot, StoredPack, StoredSnapshot, TakeSnapshot, TakenSnapshot,
    },
    pack::PackWriter,
};
use tokio::sync::Notify;

use super::{SimWorker, refusal};

#[derive(Default)]
pub struct SimSnapshots {
    /// What the chunks of every disk hold.
    pub disk: Mutex<Vec<u8>>,
    /// Why none can be taken, if it can't.
    pub fault: Mutex<Option<String>>,
    /// How often one was not taken.
    pub refused: AtomicUsize,
    /// They are stored when this is told.
    pub is_slow: Mutex<bool>,
    pub go_on: Notify,
    /// How many chunks were to be stored, of each.
    pub asked: Mutex<Vec<usize>>,
    pub taken: Mutex<Vec<TakeSnapshot>>,
    pub restored: Mutex<Vec<StartFromSnapshot>>,
    keys: Mutex<Option<SnapshotKeys>>,
}

pub fn routes() -> Router<SimWorker> {
    Router::new()
        .route("/bunkers/{id}/from-snapshot", put(start))
        .route("/bunkers/{id}/snapshots/{snapshot_id}", put(take))
        .route("/snapshots/{snapshot_id}", delete(async || StatusCode::NO_CONTENT))
        .route("/snapshots/{snapshot_id}/store", post(store))
}

fn layout() -> Layout {
    Layout { disk_bytes: 64 << 20, ..Layout::default() }
}

async fn start(
    state: State<SimWorker>,
    path: Path<BunkerId>,
    headers: axum::http::HeaderMap,
    Json(ask): Json<StartFromSnapshot>,
) -> Response {
    state.snapshots.restored.lock().unwrap().push(ask.clone());
    super::start(state, path, headers, Json(ask.start)).await
}

async fn take(State(worker): State<SimWorker>, Json(ask): Json<TakeSnapshot>) -> Response {
    let fault = worker.snapshots.fault.lock().unwrap().clone();
    if let Some(fault) = fault {
        worker.snapshots.refused.fetch_add(1, Ordering::Relaxed);
        return refusal(ErrorCode::ProvisioningFailed, fault).into_response();
    }
    worker.snapshots.taken.lock().unwrap().push(ask.clone());
    let disk = worker.snapshots.disk.lock().unwrap().clone();
    let chunks = (0..).zip(&disk);
    let chunks = chunks
        .map(|(index, held)| FoundChunk { index, name: ChunkName::of(&ask.keys, &[*held]) })
        .collect();
    *worker.snapshots.keys.lock().unwrap() = Some(ask.keys);
    Json(TakenSnapshot { layout: layout(), frozen_us: 1, chunks }).into_response()
}

async fn store(
    State(worker): State<SimWorker>,
    Path(id): Path<SnapshotId>,
    Json(ask): Json<StoreSnapshot>,
) -> Json<StoredSnapshot> {
    let is_slow = *worker.snapshots.is_slow.lock().unwrap();
    if is_slow {
        worker.snapshots.go_on.notified().await;
    }
    let keys = worker.snapshots.keys.lock().unwrap().clone().unwrap();
    let disk = worker.snapshots.disk.lock().unwrap().clone();
    let new = ask.new_packs.iter().map(|pack| pack.chunks.len()).sum();
    worker.snapshots.asked.lock().unwrap().push(new);
    let packs = ask.new_packs.iter().map(|pack| {
        let name = pack.id.to_string();
        let mut writer = PackWriter::new(&keys, &name);
        for index in &pack.chunks {
            let held = [disk[*index as usize]];
            writer.add(ChunkName::of(&keys, &held), &held).unwrap();
        }
        let (bytes, entries) = writer.finish();
        StoredPack { id: pack.id, size_bytes: bytes.len() as u64, entries }
    });
    let packs = packs.collect();
    let manifest =
        Manifest { layout: layout(), packs: Vec::new(), chunks: Vec::new(), execs: Vec::new() };
    let (bytes, manifest_digest) = manifest.encode(&keys, &id.to_string()).unwrap();
    Json(StoredSnapshot { packs, manifest_digest, manifest_bytes: bytes.len() as u64 })
}

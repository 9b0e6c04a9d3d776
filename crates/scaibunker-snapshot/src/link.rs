//! What controller and worker say to each other about snapshots.
//!
//! A snapshot takes three calls: the worker takes it and says which chunks it has; the controller looks
//! which of those are stored already, and says where the others shall be; the worker stores them and
//! says where they are. Until the third, nobody relies on anything of it.

use scaibunker_api::{
    ids::{PackId, SnapshotId},
    worker::StartBunker,
};
use serde::{Deserialize, Serialize};

use crate::{Digest, FoundChunk, Layout, SnapshotKeys, pack::PackEntry};

/// The body of `PUT /bunkers/{id}/snapshots/{snapshot_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeSnapshot {
    pub keys: SnapshotKeys,
    /// With its memory and everything that runs: what the bunker was started with.
    pub memory_of: Option<StartBunker>,
    /// The bunker is to go on from it: it is refused (`BUNKER_BUSY`) while commands run in it, and what it
    /// remembers of others goes with it.
    pub evicts: bool,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenSnapshot {
    pub layout: Layout,
    /// How long nothing could be written in the bunker, or it stood still, in microseconds.
    pub frozen_us: u64,
    pub chunks: Vec<FoundChunk>,
}

/// The body of `POST /snapshots/{snapshot_id}/store`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSnapshot {
    /// Packs that have some of the chunks already.
    pub packs: Vec<PackId>,
    /// Those chunks.
    pub known: Vec<KnownChunk>,
    /// The others.
    pub new_packs: Vec<NewPack>,
    pub manifest_key: String,
}

/// A chunk that is stored already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownChunk {
    /// Which one of the packs has it.
    pub pack: u32,
    pub entry: PackEntry,
}

/// A pack that the worker is to store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPack {
    pub id: PackId,
    /// Where, at the storage proxy.
    pub key: String,
    /// Which chunks it has, in this order. One that there is twice is in it once.
    pub chunks: Vec<u32>,
}

/// The answer, once all of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSnapshot {
    pub packs: Vec<StoredPack>,
    pub manifest_digest: Digest,
    pub manifest_bytes: u64,
}

/// A pack that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPack {
    pub id: PackId,
    pub size_bytes: u64,
    pub entries: Vec<PackEntry>,
}

/// The body of `PUT /bunkers/{id}/from-snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFromSnapshot {
    pub start: StartBunker,
    pub snapshot: RestoreSnapshot,
    /// Whether it is the bunker that the snapshot was taken of, which goes on.
    pub goes_on: bool,
}

/// The snapshot that a bunker is to start as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSnapshot {
    pub snapshot_id: SnapshotId,
    pub manifest_key: String,
    pub manifest_digest: Digest,
    /// The packs' keys begin with it, and end with their ids.
    pub pack_prefix: String,
    pub keys: SnapshotKeys,
}

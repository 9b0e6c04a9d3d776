//! How a snapshot is stored.
//!
//! A disk is cut into [chunks](CHUNK_BYTES). One that holds anything is known by its [name](ChunkName),
//! a keyed hash of what is in it, so that no tenant keeps the same bytes twice, and no tenant's names
//! tell anything about another's. New chunks are compressed, sealed where there is a key for that, and
//! stored together in [packs](pack); a [manifest](Manifest) says which chunk of which pack is where on the
//! disk. Whatever is read is checked against its name.
//!
//! This crate knows bytes and nothing else: who may read them, which packs are in use and where
//! objects are is for others to know.

mod chunk;
mod hash;
mod keys;
pub mod link;
mod manifest;
pub mod pack;

pub use self::{
    chunk::{CHUNK_BYTES, ChunkName, FoundChunk, MAX_DISK_BYTES, find_chunks, read_chunk},
    keys::{Key, SnapshotKeys},
    manifest::{Digest, Manifest, PlacedChunk},
};

/// What was stored cannot be what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the manifest is damaged: {0}")]
    Manifest(String),
    #[error("the chunk at {at} MiB of the disk is damaged: {why}")]
    Chunk {
        /// Where it belongs, in MiB from the disk's begin.
        at: u64,
        why: &'static str,
    },
}

//! How a snapshot is stored.
//!
//! A disk, and with it a memory where there is one, is cut into [chunks](CHUNK_BYTES). One that holds anything is known by its [name](ChunkName),
//! a keyed hash of what is in it, so that no tenant keeps the same bytes twice, and no tenant's names
//! tell anything about another's. New chunks are compressed, sealed where there is a key for that, and
//! stored together in [packs](pack); a [manifest](Manifest) says which chunk of which pack is where in
//! which [part](Layout). Whatever is read is checked against its name.
//!
//! This crate knows bytes and nothing else: who may read them, which packs are in use and where
//! objects are is for others to know.

mod chunk;
mod hash;
mod keys;
mod layout;
pub mod link;
mod manifest;
pub mod pack;

pub use self::{
    chunk::{CHUNK_BYTES, ChunkName, FoundChunk, find_chunks, read_chunk},
    keys::{Key, SnapshotKeys},
    layout::{Layout, Part},
    manifest::{Digest, Manifest, PlacedChunk},
};

/// What was stored cannot be what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the manifest is damaged: {0}")]
    Manifest(String),
    #[error("chunk {index} is damaged: {why}")]
    Chunk {
        /// Which one it is.
        index: u32,
        why: &'static str,
    },
}

//! Packs: objects with new chunks one after the other.
//!
//! A chunk in a pack is zstd, then sealed. Nothing else is in a pack: where a chunk begins is written
//! in manifests and in the database.

use serde::{Deserialize, Serialize};

use crate::{CHUNK_BYTES, ChunkName, Damage, PlacedChunk, SnapshotKeys};

/// Chunks in a pack at most: 16 MiB of a disk, which whoever stores or reads one holds in memory.
pub const MAX_CHUNKS: usize = 64;

/// Quick, and a third of the size for most file systems.
const COMPRESSION_LEVEL: i32 = 1;

/// What a chunk may take in a pack: incompressible bytes grow a little.
pub const MAX_ENTRY_BYTES: usize = CHUNK_BYTES + 4096;

/// What a pack has at most.
pub const MAX_BYTES: usize = MAX_CHUNKS * MAX_ENTRY_BYTES;

/// Where a chunk is in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackEntry {
    pub name: ChunkName,
    /// Which one of the pack it is.
    pub number: u32,
    pub offset: u32,
    pub length: u32,
}

/// A pack that is being made.
#[derive(Debug)]
pub struct PackWriter<'a> {
    keys: &'a SnapshotKeys,
    /// The pack's id, under which it is sealed.
    id: &'a str,
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
}

impl<'a> PackWriter<'a> {
    /// An empty pack with this id.
    #[must_use]
    pub fn new(keys: &'a SnapshotKeys, id: &'a str) -> Self {
        Self { keys, id, bytes: Vec::new(), entries: Vec::new() }
    }

    /// Adds a chunk's contents.
    pub fn add(&mut self, name: ChunkName, contents: &[u8]) -> std::io::Result<()> {
        let number = self.entries.len() as u32;
        let mut packed = zstd::bulk::compress(contents, COMPRESSION_LEVEL)?;
        self.keys.seal(self.id, number.into(), &mut packed);
        let (offset, length) = (self.bytes.len() as u32, packed.len() as u32);
        self.bytes.extend_from_slice(&packed);
        self.entries.push(PackEntry { name, number, offset, length });
        Ok(())
    }

    /// The object, and where what is in it.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, Vec<PackEntry>) {
        (self.bytes, self.entries)
    }
}

/// A chunk's contents, out of the bytes of its pack. `id` is the pack's.
pub fn open(
    keys: &SnapshotKeys,
    id: &str,
    chunk: &PlacedChunk,
    pack: &[u8],
) -> Result<Vec<u8>, Damage> {
    let (entry, index) = (&chunk.entry, chunk.index);
    let damaged = |why| Damage::Chunk { index, why };
    let begin = entry.offset as usize;
    let packed = pack.get(begin..begin + entry.length as usize);
    let packed = packed.ok_or_else(|| damaged("its pack is cut off"))?;
    let opened = keys.open(id, entry.number.into(), packed.to_vec());
    let opened = opened.ok_or_else(|| damaged("it was changed, or sealed with another key"))?;
    let contents = zstd::bulk::decompress(&opened, CHUNK_BYTES)
        .map_err(|_| damaged("it cannot be decompressed"))?;
    if ChunkName::of(keys, &contents) != entry.name {
        return Err(damaged("its contents are others than those that were stored"));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::keys;

    fn packed(keys: &SnapshotKeys, all: &[Vec<u8>]) -> (Vec<u8>, Vec<PackEntry>) {
        let mut pack = PackWriter::new(keys, "pack");
        for contents in all {
            pack.add(ChunkName::of(keys, contents), contents).unwrap();
        }
        pack.finish()
    }

    fn placed(entry: PackEntry) -> PlacedChunk {
        PlacedChunk { index: 0, pack: 0, entry }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_packed_is_unpacked(
            all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..9),
            is_sealed: bool,
        ) {
            let keys = keys(is_sealed);
            let (pack, entries) = packed(&keys, &all);
            for (entry, contents) in entries.iter().zip(&all) {
                let opened = open(&keys, "pack", &placed(*entry), &pack);
                prop_assert_eq!(opened.as_ref(), Ok(contents));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for is_sealed in [true, false] {
            let keys = keys(is_sealed);
            let contents: Vec<u8> = (0..200u8).flat_map(|byte| [byte, 7]).collect();
            let (pack, entries) = packed(&keys, std::slice::from_ref(&contents));
            for bit in 0..pack.len() * 8 {
                let mut damaged = pack.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let opened = open(&keys, "pack", &placed(entries[0]), &damaged);
                // A bit of zstd's header that means nothing may change nothing.
                assert!(opened.as_ref().is_err() || opened.as_ref() == Ok(&contents), "bit {bit}");
                assert!(opened.is_err() || !is_sealed, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_chunk_of_chance_fits() {
        let contents: Vec<u8> =
            (0..CHUNK_BYTES as u64).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let (pack, entries) = packed(&keys(true), std::slice::from_ref(&contents));
        assert!(pack.len() <= MAX_ENTRY_BYTES);
        assert_eq!(open(&keys(true), "pack", &placed(entries[0]), &pack).unwrap(), contents);
        let cut = open(&keys(true), "pack", &placed(entries[0]), &pack[..pack.len() - 1]);
        assert_eq!(cut, Err(Damage::Chunk { index: 0, why: "its pack is cut off" }));
    }
}

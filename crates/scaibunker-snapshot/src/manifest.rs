//! Manifests: what a snapshot consists of.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use scaibunker_api::{ids::PackId, worker::ExecReport};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    Damage, Layout, SnapshotKeys,
    hash::hash_as_text,
    pack::{MAX_ENTRY_BYTES, PackEntry},
};

const COMPRESSION_LEVEL: i32 = 3;

/// That of a full disk of the largest size is smaller, once it is uncompressed.
const MAX_JSON_BYTES: u64 = 1 << 30;

/// A chunk and where its contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedChunk {
    /// Which one it is, of all parts' numbered through.
    pub index: u32,
    /// Which one of the manifest's packs has it.
    pub pack: u32,
    pub entry: PackEntry,
}

/// What a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    #[serde(flatten)]
    pub layout: Layout,
    pub packs: Vec<PackId>,
    /// In their order; all others are zeroes.
    pub chunks: Vec<PlacedChunk>,
    /// The commands that its bunker remembers, if it is to go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub execs: Vec<ExecReport>,
}

/// A hash of a manifest as it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Manifest {
    /// What a stored one has at most.
    pub const MAX_BYTES: usize = 256 << 20;

    /// The packs that chunks are in, each with those, in their order.
    #[must_use]
    pub fn chunks_by_pack(&self) -> Vec<(PackId, Vec<PlacedChunk>)> {
        let mut by_pack: BTreeMap<u32, Vec<PlacedChunk>> = BTreeMap::new();
        for chunk in &self.chunks {
            by_pack.entry(chunk.pack).or_default().push(*chunk);
        }
        // Every chunk's pack is one of these: a sound manifest says so.
        let named = |(pack, chunks)| Some((*self.packs.get(pack as usize)?, chunks));
        by_pack.into_iter().filter_map(named).collect()
    }

    /// The object, and the hash by which it is recognised. `snapshot` is the snapshot's id, under which
    /// it is sealed.
    pub fn encode(&self, keys: &SnapshotKeys, snapshot: &str) -> io::Result<(Vec<u8>, Digest)> {
        let mut bytes = zstd::bulk::compress(&serde_json::to_vec(self)?, COMPRESSION_LEVEL)?;
        keys.seal(snapshot, 0, &mut bytes);
        let digest = Digest(blake3::hash(&bytes).into());
        Ok((bytes, digest))
    }

    /// The manifest that was stored, which is sound: its chunks are in order, in its parts and in its
    /// packs.
    pub fn decode(
        keys: &SnapshotKeys,
        snapshot: &str,
        bytes: Vec<u8>,
        digest: Digest,
    ) -> Result<Self, Damage> {
        let damaged = |why: &str| Damage::Manifest(why.to_owned());
        if Digest(blake3::hash(&bytes).into()) != digest {
            return Err(damaged("it is another one than was stored"));
        }
        let opened = keys.open(snapshot, 0, bytes);
        let opened = opened.ok_or_else(|| damaged("it is sealed with another key"))?;
        let json = decompress(&opened).map_err(|error| Damage::Manifest(error.to_string()))?;
        let manifest: Self =
            serde_json::from_slice(&json).map_err(|error| Damage::Manifest(error.to_string()))?;
        if manifest.is_sound() { Ok(manifest) } else { Err(damaged("it contradicts itself")) }
    }

    fn is_sound(&self) -> bool {
        let is_in = |chunk: &PlacedChunk| {
            self.layout.find(chunk.index).is_some()
                && (chunk.pack as usize) < self.packs.len()
                && (chunk.entry.length as usize) <= MAX_ENTRY_BYTES
        };
        self.layout.is_sound()
            && self.chunks.iter().all(is_in)
            && self.chunks.is_sorted_by(|a, b| a.index < b.index)
    }
}

fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    let decoder = zstd::stream::Decoder::new(bytes)?;
    decoder.take(MAX_JSON_BYTES).read_to_end(&mut json)?;
    Ok(json)
}

hash_as_text!(Digest, InvalidDigest, "a digest has 32 bytes as base64");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkName, keys::tests::keys};

    fn manifest() -> Manifest {
        let entry =
            PackEntry { name: ChunkName::of(&keys(true), b"x"), number: 0, offset: 0, length: 9 };
        let placed = |index| PlacedChunk { index, pack: 0, entry };
        Manifest {
            layout: Layout { disk_bytes: 64 << 20, ..Layout::default() },
            packs: vec![PackId::generate()],
            chunks: vec![placed(0), placed(255)],
            execs: Vec::new(),
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_no_other_is() {
        for is_sealed in [true, false] {
            let (keys, manifest) = (keys(is_sealed), manifest());
            let (bytes, digest) = manifest.encode(&keys, "snapshot").unwrap();
            let decode = |bytes: Vec<u8>| Manifest::decode(&keys, "snapshot", bytes, digest);
            assert_eq!(decode(bytes.clone()), Ok(manifest));
            for byte in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[byte] ^= 16;
                assert!(matches!(decode(damaged), Err(Damage::Manifest(_))));
            }
        }
    }

    #[test]
    fn one_that_contradicts_itself_is_refused() {
        let keys = keys(false);
        let wrong: [fn(&mut Manifest); 5] = [
            |manifest| manifest.chunks.reverse(),
            |manifest| manifest.chunks[1].index = 256,
            |manifest| manifest.chunks[1].pack = 1,
            |manifest| manifest.chunks[0].entry.length = u32::MAX,
            |manifest| manifest.layout.disk_bytes = u64::MAX,
        ];
        for spoil in wrong {
            let mut manifest = manifest();
            spoil(&mut manifest);
            let (bytes, digest) = manifest.encode(&keys, "snapshot").unwrap();
            assert!(Manifest::decode(&keys, "snapshot", bytes, digest).is_err());
        }
    }
}

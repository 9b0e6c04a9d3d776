//! Chunks of a part.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{SnapshotKeys, hash::hash_as_text};

/// A quarter of a MiB: a file system that writes a block here and there dirties few bytes more, and a
/// disk of a GiB has 4,096.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// A chunk's contents, for whoever has the tenant's naming key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkName([u8; 32]);

impl ChunkName {
    /// The name of these contents.
    #[must_use]
    pub fn of(keys: &SnapshotKeys, contents: &[u8]) -> Self {
        Self(blake3::keyed_hash(keys.naming.bytes(), contents).into())
    }
}

hash_as_text!(ChunkName, InvalidName, "a chunk's name has 32 bytes as base64");

/// A chunk that holds anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundChunk {
    /// Which one it is, of all parts' numbered through.
    pub index: u32,
    pub name: ChunkName,
}

/// The chunks of the first `bytes` of a sparse file that are not all zeroes, in order. The file's first one
/// has the number `first`. Blocks.
pub fn find_chunks(
    file: &File,
    bytes: u64,
    first: u64,
    keys: &SnapshotKeys,
) -> io::Result<Vec<FoundChunk>> {
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < bytes {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) if start < bytes => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(bytes);
        let chunk = CHUNK_BYTES as u64;
        for within in start / chunk..end.div_ceil(chunk) {
            // Two pieces of data may be in one chunk.
            let index = u32::try_from(first + within).map_err(io::Error::other)?;
            if found.last().is_some_and(|last: &FoundChunk| last.index >= index) {
                continue;
            }
            let contents = read_chunk(file, bytes, within)?;
            if contents.iter().any(|&byte| byte != 0) {
                found.push(FoundChunk { index, name: ChunkName::of(keys, &contents) });
            }
        }
        offset = end;
    }
    Ok(found)
}

/// The contents of one of a file's chunks. The last one may be shorter than the others. Blocks.
pub fn read_chunk(file: &File, bytes: u64, within: u64) -> io::Result<Vec<u8>> {
    let start = within * CHUNK_BYTES as u64;
    let length = bytes.saturating_sub(start).min(CHUNK_BYTES as u64);
    let mut contents = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < contents.len() {
        match file.read_at(&mut contents[filled..], start + filled as u64) {
            // The file may be shorter than the part; what is not there is zeroes.
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::keys;

    fn sparse(disk_bytes: u64, pieces: &[(u64, u8)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(disk_bytes).unwrap();
        for (at, byte) in pieces {
            file.write_all_at(&[*byte], *at).unwrap();
        }
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn exactly_the_chunks_that_hold_something_are_found(
            pieces in proptest::collection::vec((0u64..3_000_000, any::<u8>()), 0..12),
        ) {
            let disk_bytes = 3_000_000;
            let file = sparse(disk_bytes, &pieces);
            let found = find_chunks(&file, disk_bytes, 100, &keys(false)).unwrap();
            let mut held = std::collections::BTreeSet::new();
            for within in 0..disk_bytes.div_ceil(CHUNK_BYTES as u64) {
                if read_chunk(&file, disk_bytes, within).unwrap().iter().any(|&byte| byte != 0) {
                    held.insert(within as u32 + 100);
                }
            }
            prop_assert!(found.is_sorted_by(|a, b| a.index < b.index));
            prop_assert_eq!(found.iter().map(|chunk| chunk.index).collect::<std::collections::BTreeSet<_>>(), held);
            for chunk in found {
                let contents = read_chunk(&file, disk_bytes, u64::from(chunk.index) - 100).unwrap();
                prop_assert_eq!(chunk.name, ChunkName::of(&keys(false), &contents));
            }
        }

        #[test]
        fn names_travel(bytes: [u8; 32], text in ".*") {
            let name = ChunkName(bytes);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            let _ = text.parse::<ChunkName>();
        }
    }

    #[test]
    fn what_is_behind_the_disk_is_not_looked_at() {
        let file = sparse(10 << 20, &[(0, 1), (9 << 20, 1)]);
        assert_eq!(find_chunks(&file, 1 << 20, 0, &keys(false)).unwrap().len(), 1);
    }

    #[test]
    fn the_same_contents_have_other_names_elsewhere() {
        let other = SnapshotKeys { naming: crate::Key::derive("other", b""), sealing: None };
        assert_ne!(ChunkName::of(&keys(false), b"x"), ChunkName::of(&other, b"x"));
    }
}

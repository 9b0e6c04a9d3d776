//! The parts of a snapshot.

use serde::{Deserialize, Serialize};

use crate::chunk::CHUNK_BYTES;

/// A part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Disk,
    Memory,
    /// The state of the microVM's devices.
    Devices,
}

impl Part {
    /// In the order in which they follow each other.
    pub const ALL: [Self; 3] = [Self::Disk, Self::Memory, Self::Devices];
}

/// How long the parts are, in bytes. Their chunks are numbered through, and each part begins with one of its
/// own. A snapshot of a disk has no other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub disk_bytes: u64,
    #[serde(default)]
    pub memory_bytes: u64,
    #[serde(default)]
    pub devices_bytes: u64,
}

impl Layout {
    /// No disk and no memory is longer.
    pub const MAX_PART_BYTES: u64 = 1 << 40;

    /// How long a part is, in bytes.
    #[must_use]
    pub fn bytes(&self, part: Part) -> u64 {
        match part {
            Part::Disk => self.disk_bytes,
            Part::Memory => self.memory_bytes,
            Part::Devices => self.devices_bytes,
        }
    }

    /// Whether it is of everything that runs, not of the disk alone.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.memory_bytes > 0
    }

    /// Which chunk is the first of a part.
    #[must_use]
    pub fn first_chunk(&self, part: Part) -> u64 {
        Part::ALL.iter().take_while(|other| **other != part).map(|other| self.chunks(*other)).sum()
    }

    /// How many chunks there are.
    #[must_use]
    pub fn all_chunks(&self) -> u64 {
        Part::ALL.iter().map(|part| self.chunks(*part)).sum()
    }

    fn chunks(&self, part: Part) -> u64 {
        self.bytes(part).div_ceil(CHUNK_BYTES as u64)
    }

    /// Which part a chunk is of, and the how manieth of it; `None` if there is no such chunk.
    #[must_use]
    pub fn find(&self, chunk: u32) -> Option<(Part, u64)> {
        let mut left = u64::from(chunk);
        for part in Part::ALL {
            match left.checked_sub(self.chunks(part)) {
                Some(beyond) => left = beyond,
                None => return Some((part, left)),
            }
        }
        None
    }

    /// Whether it can be of any bunker.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        Part::ALL.iter().all(|part| self.bytes(*part) <= Self::MAX_PART_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_chunk_is_of_one_part(
            disk_bytes in 0u64..3_000_000,
            memory_bytes in 0u64..3_000_000,
            devices_bytes in 0u64..600_000,
        ) {
            let layout = Layout { disk_bytes, memory_bytes, devices_bytes };
            let mut counted = [0; 3];
            for chunk in 0..layout.all_chunks() as u32 {
                let (part, within) = layout.find(chunk).unwrap();
                prop_assert_eq!(layout.first_chunk(part) + within, u64::from(chunk));
                prop_assert!(within * (CHUNK_BYTES as u64) < layout.bytes(part));
                counted[part as usize] += 1;
            }
            for part in Part::ALL {
                prop_assert_eq!(counted[part as usize], layout.chunks(part));
            }
            prop_assert_eq!(layout.find(layout.all_chunks() as u32), None);
        }
    }

    #[test]
    fn what_was_written_before_there_was_memory_is_of_a_disk() {
        let layout: Layout = serde_json::from_str(r#"{"disk_bytes":7}"#).unwrap();
        assert_eq!(layout, Layout { disk_bytes: 7, ..Layout::default() });
        assert!(!layout.has_memory());
    }
}

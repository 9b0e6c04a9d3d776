//! How much a bake may use, so that no archive can take the worker's disk, memory or day.

use std::time::Duration;

use super::job::Fault;

/// Entries of all layers, directories that are only implied among them.
pub const MAX_ENTRIES: u64 = 2_000_000;

/// Bytes of all files with their holes.
pub const MAX_LOGICAL_BYTES: u64 = 1 << 40;

/// Ids that a file can belong to: those of a 16-bit system, and some above them.
pub const MAX_ID: u32 = 1 << 24;

/// Attributes of one file, which must fit into one block.
pub const MAX_XATTR_BYTES: usize = 3500;

/// Memory of the helper and its programs together: a few MiB of their own, and the pages and inodes
/// of the files they write, which the kernel takes back when it must. With 200 MiB it had to all
/// the time, and a bake of 500 MB took four times as long, most of it reading again what was just
/// written. What the processes themselves may allocate is bounded below.
pub const MEMORY_BYTES: u64 = 1280 << 20;

/// What one process of the helper may allocate.
pub const PROCESS_MEMORY_BYTES: u64 = 160 << 20;

pub const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// What the layers of an image with this cap may unpack to. A file of zeros is read in full and
/// stored as a hole, so it is far more than the cap.
#[must_use]
pub fn max_stream_bytes(size_mib: u32) -> u64 {
    (64 << 30) + 8 * (u64::from(size_mib) << 20)
}

/// What is left of each bound.
#[derive(Debug)]
pub struct Limits {
    size_mib: u32,
    entries: u64,
    logical_bytes: u64,
}

impl Limits {
    #[must_use]
    pub fn new(size_mib: u32) -> Self {
        Self { size_mib, entries: MAX_ENTRIES, logical_bytes: MAX_LOGICAL_BYTES }
    }

    pub fn count_entry(&mut self) -> Result<(), Fault> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| {
            Fault::refused(format_args!("the layers have more than {MAX_ENTRIES} entries"))
        })?;
        Ok(())
    }

    pub fn count_logical(&mut self, bytes: u64) -> Result<(), Fault> {
        self.logical_bytes = self
            .logical_bytes
            .checked_sub(bytes)
            .ok_or_else(|| Fault::refused("the files have more than 1 TiB with their holes"))?;
        Ok(())
    }

    /// Whether so many bytes on the disk can still become a file system.
    pub fn check_used(&self, bytes: u64) -> Result<(), Fault> {
        let cap = u64::from(self.size_mib) << 20;
        if bytes > cap {
            return Err(size_cap(
                format_args!("needs more than {} MiB", self.size_mib),
                self.size_mib,
            ));
        }
        Ok(())
    }
}

/// The image does not fit.
pub fn size_cap(needs: impl std::fmt::Display, size_mib: u32) -> Fault {
    Fault::new(
        scaibunker_api::worker::ImageFaultCause::SizeCap,
        format!("size cap too small: mkfs.ext4 {needs}, size_mib is {size_mib}"),
    )
}

//! Writing files of any size.
//!
//! What comes in bulk goes straight to the disk: through the page cache, an emulated processor
//! takes several times longer for it than for all else an upload needs, and the bunker's programs
//! would lose their own pages to it.

use std::{
    fs::File,
    io::{self, Write},
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    io::Errno,
};

/// Written at once. A file that is not longer is likely to be read soon, and stays in memory.
const BULK_BYTES: usize = 512 * 1024;

/// What disks want the place of bytes to be a multiple of, in memory and in the file.
const ALIGNMENT: usize = 4096;

/// A new file that is being written from its start. Its last bytes are written by
/// [`Write::flush`], after which there can be no more.
#[derive(Debug)]
pub struct BulkFile<'a> {
    file: &'a File,
    /// Unused bytes up to the alignment, then what is to be written. Never grows.
    gathered: Vec<u8>,
    /// Of the unused bytes.
    padding: usize,
    route: Route,
}

/// How bytes get to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Undecided,
    Direct,
    PageCache,
}

impl<'a> BulkFile<'a> {
    pub fn new(file: &'a File) -> Self {
        let mut gathered = Vec::<u8>::with_capacity(BULK_BYTES + ALIGNMENT);
        let padding = gathered.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        gathered.resize(padding, 0);
        Self { file, gathered, padding, route: Route::Undecided }
    }

    /// Writes what has been gathered.
    fn write_out(&mut self) -> Result<(), Errno> {
        let mut rest = &self.gathered[self.padding..];
        while !rest.is_empty() {
            match rustix::io::write(self.file, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => continue,
                Err(Errno::INVAL) if self.route == Route::Direct => {}
                Err(error) => return Err(error),
            }
            // The file system takes nothing directly, or took a part and the rest is not aligned.
            if self.route == Route::Direct && !rest.is_empty() {
                self.route = Route::PageCache;
                fcntl_setfl(self.file, OFlags::empty())?;
            }
        }
        self.gathered.truncate(self.padding);
        Ok(())
    }
}

impl Write for BulkFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.padding + BULK_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..count]);
        if self.gathered.len() == self.padding + BULK_BYTES {
            if self.route == Route::Undecided {
                self.route = match fcntl_setfl(self.file, OFlags::DIRECT) {
                    Ok(()) => Route::Direct,
                    Err(_) => Route::PageCache,
                };
            }
            self.write_out()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.route == Route::Direct {
            self.route = Route::PageCache;
            fcntl_setfl(self.file, OFlags::empty())?;
        }
        Ok(self.write_out()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_pieces_make_the_whole(
            pieces in proptest::collection::vec((0usize..300_000, any::<u8>()), 0..12),
        ) {
            // On a disk, and in memory, where nothing can be written directly.
            for dir in [env!("CARGO_MANIFEST_DIR"), "/dev/shm"] {
                let file = tempfile::tempfile_in(dir).unwrap();
                let mut whole = Vec::new();
                let mut bulk = BulkFile::new(&file);
                for &(length, byte) in &pieces {
                    bulk.write_all(&vec![byte; length]).unwrap();
                    whole.resize(whole.len() + length, byte);
                }
                bulk.flush().unwrap();
                let mut written = vec![0; whole.len() + 1];
                let count = std::os::unix::fs::FileExt::read_at(&file, &mut written, 0).unwrap();
                prop_assert!(written[..count] == whole);
            }
        }
    }
}

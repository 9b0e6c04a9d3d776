//! Copies of the memory of a guest that was itself a clone.
//!
//! A clone maps the memory that it continued from privately, so its own memory is that file with the pages
//! over it that the clone has written. The kernel tells which these are (`pagemap`, see the kernel's
//! `Documentation/admin-guide/mm/pagemap.rst`), and lets whoever may trace the VMM read them.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use rustix::{
    fs::{
        FileType, MemfdFlags, SealFlags, SeekFrom, copy_file_range, fcntl_add_seals, fstat,
        ftruncate, major, memfd_create, minor, seek,
    },
    io::Errno,
};

const PAGE_BYTES: u64 = 4096;
/// Entries of `pagemap` read at once, and with that what is copied at once: 2 MiB.
const BATCH_PAGES: u64 = 512;

/// Of an entry of `pagemap`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Makes the memory of a guest of that size, all zeroes.
pub fn create(bytes: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("guest-memory", flags)?;
    ftruncate(&memory, bytes)?;
    Ok(memory)
}

/// Nothing can change it any more. No writable mapping of it may be left.
pub fn seal(memory: &OwnedFd) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(fcntl_add_seals(memory, seals)?)
}

/// A copy of what a clone continued from.
pub fn copy_base(base: &OwnedFd) -> io::Result<OwnedFd> {
    let stat = fstat(base)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let end = u64::try_from(stat.st_size).map_err(io::Error::other)?;
    let copy = create(end)?;
    // The position of a descriptor is shared with the VMM's.
    let own = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(base)))?;
    let mut at = 0;
    while let Some(data) = next_data(&own, at, end)? {
        copy_range(&own, &copy, data.clone())?;
        at = data.end;
    }
    Ok(copy)
}

fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if at >= end {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some(start..seek(file, SeekFrom::Hole(start))?)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy_range(from: &File, to: &OwnedFd, range: Range<u64>) -> io::Result<()> {
    let (mut read, mut written) = (range.start, range.start);
    while read < range.end {
        let length = usize::try_from(range.end - read).unwrap_or(usize::MAX);
        if copy_file_range(from, Some(&mut read), to.as_fd(), Some(&mut written), length)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// A part of the VMM's address space that is guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    addresses: Range<u64>,
    /// Where in the guest's memory it begins.
    offset: u64,
}

/// Writes the pages over `copy`, of [`copy_base`], that the process has written itself. The guest stands
/// still.
pub fn copy_own_pages(pid: i32, base: &OwnedFd, copy: &OwnedFd) -> io::Result<()> {
    let stat = fstat(base)?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let file = format!("{:02x}:{:02x} {}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
    let mappings = find_mappings(&maps, &file);
    let mapped: u64 = mappings.iter().map(|map| map.addresses.end - map.addresses.start).sum();
    let end = |map: &Mapping| map.offset.checked_add(map.addresses.end - map.addresses.start);
    let is_within = |map| end(map).is_some_and(|end| end <= mapped);
    if u64::try_from(stat.st_size) != Ok(mapped) || !mappings.iter().all(is_within) {
        return Err(io::Error::other("the VMM has not mapped the guest's memory once"));
    }
    let pages = File::open(format!("/proc/{pid}/pagemap"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let copy = File::from(copy.try_clone()?);
    let mut entries = vec![0; (BATCH_PAGES * 8) as usize];
    let mut buffer = vec![0; (BATCH_PAGES * PAGE_BYTES) as usize];
    for Mapping { addresses, offset } in mappings {
        let mut at = addresses.start;
        while at < addresses.end {
            let count = BATCH_PAGES.min((addresses.end - at) / PAGE_BYTES);
            let entries = &mut entries[..(count * 8) as usize];
            pages.read_exact_at(entries, at / PAGE_BYTES * 8)?;
            for run in own_runs(entries) {
                let bytes = &mut buffer[..((run.end - run.start) * PAGE_BYTES) as usize];
                let start = at + run.start * PAGE_BYTES;
                memory.read_exact_at(bytes, start)?;
                copy.write_all_at(bytes, offset + (start - addresses.start))?;
            }
            at += count * PAGE_BYTES;
        }
    }
    Ok(())
}

/// The mappings of `file`, by its device and inode as the kernel writes them.
fn find_mappings(maps: &str, file: &str) -> Vec<Mapping> {
    let parse = |line: &str| {
        // `start-end permissions offset device inode path`
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let offset = hex(words.nth(1)?)?;
        let is_it = file.split(' ').all(|part| words.next() == Some(part));
        is_it.then_some(Mapping { addresses: hex(start)?..hex(end)?, offset })
    };
    maps.lines().filter_map(parse).collect()
}

/// Which pages are the process's own, by the entries of some.
fn own_runs(entries: &[u8]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let (entries, _) = entries.as_chunks();
    for (page, entry) in (0..).zip(entries) {
        let entry = u64::from_ne_bytes(*entry);
        if entry & (PRESENT | SWAPPED) == 0 || entry & OF_FILE != 0 {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_found_by_device_and_inode_alone() {
        let maps = "7f00-7f10 rw-p 00000000 00:01 77 /memfd:guest-memory (deleted)\n\
             7f10-7f20 rw-p 00000010 00:01 77 /memfd:guest-memory (deleted)\n\
             8000-9000 rw-p 00000000 00:01 78 /memfd:guest-memory (deleted)\n\
             9000-a000 rw-p 00000000 00:02 77 /x\n\
             a000-b000 rw-p 00000000 00:00 0 \n\nnonsense\n";
        let found = find_mappings(maps, "00:01 77");
        let mapping = |addresses, offset| Mapping { addresses, offset };
        assert_eq!(found, [mapping(0x7f00..0x7f10, 0), mapping(0x7f10..0x7f20, 0x10)]);
    }

    #[test]
    fn a_page_is_the_processes_own_if_it_is_there_and_no_files() {
        let entries = [0, PRESENT, SWAPPED, PRESENT | OF_FILE, SWAPPED | OF_FILE, PRESENT | 5];
        let bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_ne_bytes).collect();
        assert_eq!(own_runs(&bytes), [1..3, 5..6]);
    }

    #[test]
    fn what_a_process_wrote_privately_is_copied_over_what_it_continued_from() {
        // This process stands in for a VMM.
        let base = create(8 * PAGE_BYTES).unwrap();
        let file = File::from(base.try_clone().unwrap());
        file.write_all_at(b"base", 0).unwrap();
        file.write_all_at(b"kept", 2 * PAGE_BYTES).unwrap();
        // SAFETY: a mapping of its own, written to within its bounds.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                8 * PAGE_BYTES as usize,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
                &base,
                0,
            )
            .unwrap()
            .cast::<u8>()
        };
        // SAFETY: as above.
        unsafe {
            mapped.write(b'B');
            mapped.add(5 * PAGE_BYTES as usize).write(b'n');
            // Read, which makes it no page of its own.
            assert_eq!(mapped.add(2 * PAGE_BYTES as usize).read(), b'k');
        }
        let copy = copy_base(&base).unwrap();
        copy_own_pages(std::process::id().cast_signed(), &base, &copy).unwrap();
        seal(&copy).unwrap();
        let copy = File::from(copy);
        let read = |at| {
            let mut bytes = [0; 4];
            copy.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!(&read(0), b"Base");
        assert_eq!(&read(2 * PAGE_BYTES), b"kept");
        assert_eq!(&read(5 * PAGE_BYTES), b"n\0\0\0");
        assert!(copy.write_all_at(b"x", 0).is_err());
    }
}

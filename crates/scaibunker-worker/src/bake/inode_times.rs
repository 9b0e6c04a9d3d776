//! The same tree gives the same bytes: times that come from the unpacking are replaced.
//!
//! `mkfs.ext4 -d` takes over when an inode of the tree was last changed and read, which no program
//! can set beforehand, and `debugfs` would need two commands for each inode. Here every inode in
//! use gets its modification time for both, and a new checksum.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xef53;
const INCOMPAT_64BIT: u32 = 0x80;
const INODE_BYTES: usize = 256;

/// Offsets in an inode.
const ATIME: usize = 0x8;
const CTIME: usize = 0xc;
const MTIME: usize = 0x10;
const LINKS: usize = 0x1a;
const GENERATION: usize = 0x64;
const CHECKSUM_LOW: usize = 0x7c;
const CHECKSUM_HIGH: usize = 0x82;
const CTIME_EXTRA: usize = 0x84;
const MTIME_EXTRA: usize = 0x88;
const ATIME_EXTRA: usize = 0x8c;

struct Layout {
    blocks_first: u32,
    inodes: u32,
    inodes_per_group: u32,
    descriptor_bytes: usize,
    seed: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The file system's checksum, which is CRC-32C without the last inversion.
fn crc(sum: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!sum, bytes)
}

impl Layout {
    fn read(file: &File) -> io::Result<Self> {
        let mut block = [0; SUPERBLOCK_BYTES];
        file.read_exact_at(&mut block, SUPERBLOCK_AT)?;
        let known = u16_at(&block, 0x38) == MAGIC
            && u32_at(&block, 0x18) == 2
            && usize::from(u16_at(&block, 0x58)) == INODE_BYTES
            && u32_at(&block, 0x28) != 0;
        if !known {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown file system"));
        }
        let wide = u32_at(&block, 0x60) & INCOMPAT_64BIT != 0;
        Ok(Self {
            blocks_first: u32_at(&block, 0x14),
            inodes: u32_at(&block, 0x0),
            inodes_per_group: u32_at(&block, 0x28),
            descriptor_bytes: if wide { usize::from(u16_at(&block, 0xfe)).max(64) } else { 32 },
            seed: crc(!0, &block[0x68..0x78]),
        })
    }

    /// Where a group's table of inodes begins.
    fn table_at(&self, file: &File, group: u32) -> io::Result<u64> {
        let mut descriptor = vec![0; self.descriptor_bytes];
        let first = u64::from(self.blocks_first + 1) * 4096;
        let at = first + u64::from(group) * self.descriptor_bytes as u64;
        file.read_exact_at(&mut descriptor, at)?;
        let low = u64::from(u32_at(&descriptor, 0x8));
        let high = if self.descriptor_bytes >= 64 { u32_at(&descriptor, 0x28) } else { 0 };
        Ok((low | u64::from(high) << 32) * 4096)
    }
}

/// Rewrites the times of every inode in use.
pub fn settle(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let layout = Layout::read(&file)?;
    let groups = layout.inodes.div_ceil(layout.inodes_per_group);
    let mut table = vec![0; INODE_BYTES * 4096];
    for group in 0..groups {
        let mut number = group * layout.inodes_per_group + 1;
        let mut at = layout.table_at(&file, group)?;
        let mut left = layout.inodes_per_group as usize * INODE_BYTES;
        while left > 0 {
            let part = left.min(table.len());
            let inodes = &mut table[..part];
            file.read_exact_at(inodes, at)?;
            let mut is_changed = false;
            for inode in inodes.chunks_exact_mut(INODE_BYTES) {
                if u16_at(inode, LINKS) != 0 {
                    settle_inode(inode, number, layout.seed);
                    is_changed = true;
                }
                number += 1;
            }
            // What was never written shall stay a hole.
            if is_changed {
                file.write_all_at(inodes, at)?;
            }
            (at, left) = (at + part as u64, left - part);
        }
    }
    Ok(())
}

fn settle_inode(inode: &mut [u8], number: u32, seed: u32) {
    for (seconds, extra) in [(ATIME, ATIME_EXTRA), (CTIME, CTIME_EXTRA)] {
        inode.copy_within(MTIME..MTIME + 4, seconds);
        inode.copy_within(MTIME_EXTRA..MTIME_EXTRA + 4, extra);
    }
    inode[CHECKSUM_LOW..CHECKSUM_LOW + 2].fill(0);
    inode[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].fill(0);
    let mut sum = crc(seed, &number.to_le_bytes());
    sum = crc(sum, &inode[GENERATION..GENERATION + 4]);
    let sum = crc(sum, inode).to_le_bytes();
    inode[CHECKSUM_LOW..CHECKSUM_LOW + 2].copy_from_slice(&sum[..2]);
    inode[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].copy_from_slice(&sum[2..]);
}

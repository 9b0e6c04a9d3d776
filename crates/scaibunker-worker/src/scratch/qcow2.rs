//! Empty disks that show what is below them: QEMU's image format, version 3, as its
//! `docs/interop/qcow2.txt` describes it.

use std::{fs::File, io, os::unix::fs::FileExt as _};

const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// Bytes of the disk that one entry of the first table stands for.
const BYTES_OF_ENTRY: u64 = CLUSTER_BYTES * (CLUSTER_BYTES / 8);

const REFCOUNT_TABLE: u64 = 1;
const REFCOUNTS: u64 = 2;
const FIRST_TABLE: u64 = 3;
/// Counters of 16 bits.
const REFCOUNT_ORDER: u32 = 4;
const HEADER_BYTES: u32 = 104;

/// What the tables of a disk take at most besides what is on it, in bytes.
pub fn overhead(disk_bytes: u64) -> u64 {
    // Eight bytes of a table and two of a counter for each cluster, and what is rounded up.
    disk_bytes / CLUSTER_BYTES * 10 + 32 * CLUSTER_BYTES
}

/// Makes an empty file a disk of that size on which nothing is written. What is below is not named in it.
pub fn format(file: &File, disk_bytes: u64) -> io::Result<()> {
    let entries = disk_bytes.div_ceil(BYTES_OF_ENTRY);
    let clusters = FIRST_TABLE + (entries * 8).div_ceil(CLUSTER_BYTES);
    let mut header = Vec::new();
    header.extend_from_slice(b"QFI\xfb");
    header.extend_from_slice(&3u32.to_be_bytes());
    // No name of a file below: its place and its length.
    header.extend_from_slice(&[0; 12]);
    header.extend_from_slice(&CLUSTER_BITS.to_be_bytes());
    header.extend_from_slice(&disk_bytes.to_be_bytes());
    // No encryption.
    header.extend_from_slice(&[0; 4]);
    let entries = u32::try_from(entries).map_err(io::Error::other)?;
    header.extend_from_slice(&entries.to_be_bytes());
    header.extend_from_slice(&(FIRST_TABLE * CLUSTER_BYTES).to_be_bytes());
    header.extend_from_slice(&(REFCOUNT_TABLE * CLUSTER_BYTES).to_be_bytes());
    header.extend_from_slice(&1u32.to_be_bytes());
    // No snapshots, and no features.
    header.extend_from_slice(&[0; 12 + 24]);
    header.extend_from_slice(&REFCOUNT_ORDER.to_be_bytes());
    header.extend_from_slice(&HEADER_BYTES.to_be_bytes());

    file.set_len(clusters * CLUSTER_BYTES)?;
    file.write_all_at(&header, 0)?;
    let refcounts = (REFCOUNTS * CLUSTER_BYTES).to_be_bytes();
    file.write_all_at(&refcounts, REFCOUNT_TABLE * CLUSTER_BYTES)?;
    let counters: Vec<u8> = (0..clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
    file.write_all_at(&counters, REFCOUNTS * CLUSTER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_long_as_it_says_and_all_clusters_are_counted() {
        for disk_bytes in [16 << 20, 1 << 30, 1 << 40] {
            let file = tempfile::tempfile().unwrap();
            format(&file, disk_bytes).unwrap();
            let clusters = file.metadata().unwrap().len() / CLUSTER_BYTES;
            let mut header = [0; HEADER_BYTES as usize];
            file.read_exact_at(&mut header, 0).unwrap();
            assert_eq!(header[24..32], disk_bytes.to_be_bytes());
            assert_eq!(header[100..], HEADER_BYTES.to_be_bytes());
            let mut counters = vec![0; CLUSTER_BYTES as usize];
            file.read_exact_at(&mut counters, REFCOUNTS * CLUSTER_BYTES).unwrap();
            let counted = counters.chunks(2).filter(|counter| *counter == [0, 1]).count() as u64;
            assert_eq!(counted, clusters);
            assert!(clusters * CLUSTER_BYTES < overhead(disk_bytes));
        }
    }
}

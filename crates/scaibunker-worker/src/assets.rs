//! Kernel, initramfs and root file systems: what a microVM is made of.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A guest kernel and the initramfs that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub release: String,
    pub vmlinux: PathBuf,
    pub initramfs: PathBuf,
}

/// A root file system, ready to be a VM's read-only disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BakedImage {
    pub name: String,
    /// `sha256:` and the hexadecimal digest of the ext4 file.
    pub digest: String,
    pub size_bytes: u64,
    pub path: PathBuf,
    pub config: ImageConfig,
}

/// What an image says about the bunkers made from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub user: String,
    pub env: BTreeMap<String, String>,
    /// Commands run once in a fresh VM so that a bunker's first ones find their files in memory.
    pub warm_up: Vec<Vec<String>>,
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
}

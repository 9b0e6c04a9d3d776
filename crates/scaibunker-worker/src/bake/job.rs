//! What this process and the helper say to each other: lines of JSON.
//!
//! The helper first gets a [`Task`], answers [`Report::Unshared`] once it is in a user namespace,
//! and goes on when it has read [`MAPPED`]. Everything after that may come from an attacker.

use std::path::PathBuf;

use scaibunker_api::worker::ImageFaultCause;
use serde::{Deserialize, Serialize};

use super::Compression;

/// Said to the helper once its ids are mapped.
pub const MAPPED: u8 = b'm';

/// The file system's file in the work directory.
pub const ROOTFS: &str = "rootfs.ext4";

/// The tree in the work directory.
pub const TREE: &str = "tree";

/// Longest line of the helper that is read.
pub const MAX_LINE_BYTES: u64 = 16 << 10;

/// What the helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    Bake(Order),
    /// Remove the tree in this work directory, whose files belong to mapped ids.
    Clear(PathBuf),
}

/// One bake.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Lowest first.
    pub layers: Vec<LayerOrder>,
    pub size_mib: u32,
    /// Exists, and is empty.
    pub work_dir: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LayerOrder {
    pub path: PathBuf,
    pub compression: Compression,
    pub diff_id: Option<String>,
}

/// A line of the helper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Unshared,
    /// Percent.
    Progress(u8),
    Fault(Fault),
    Done,
}

/// Why the helper gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub cause: ImageFaultCause,
    /// Begins with the cause in words.
    pub message: String,
}

impl Fault {
    pub fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::new(ImageFaultCause::Corrupt, format!("corrupt layer: {what}"))
    }

    pub fn refused(what: impl std::fmt::Display) -> Self {
        Self::new(ImageFaultCause::Refused, format!("refused: {what}"))
    }

    pub fn internal(what: impl std::fmt::Display) -> Self {
        Self::new(ImageFaultCause::Internal, format!("internal error: {what}"))
    }

    pub fn out_of_memory(what: impl std::fmt::Display) -> Self {
        Self::new(ImageFaultCause::OutOfMemory, format!("out of memory: {what}"))
    }

    pub fn new(cause: ImageFaultCause, message: String) -> Self {
        Self { cause, message }
    }

    /// A failed system call of this step.
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::new(
                ImageFaultCause::NoSpace,
                format!("no space left on the worker's disk: cannot {what}"),
            ),
            Some(libc::ENOMEM) => Self::out_of_memory(format_args!("cannot {what}")),
            _ => Self::internal(format_args!("cannot {what}: {error}")),
        }
    }
}

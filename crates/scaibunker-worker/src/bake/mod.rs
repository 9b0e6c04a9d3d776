//! Layers of an OCI image become one ext4 file.
//!
//! Layers are made by strangers, so this process does not read a byte of them. It starts a helper
//! (this program again) that puts itself into namespaces of its own before it looks at one:
//! no network, no other processes, a file system of a work directory and the programs of
//! e2fsprogs, ids that own nothing on the host. There it unpacks the layers into a tree and makes
//! the file system of it. What comes out is hashed here, because whoever took over the helper
//! could name any digest.
//!
//! ```text
//! this process                          the helper
//!   drive.rs   starts, bounds, judges     helper.rs     runs the steps, reports
//!   idmap.rs   maps its ids               jail.rs       namespaces, mounts, limits
//!   measure.rs hashes the result          layer.rs      opens a layer, checks its digest
//!              job.rs: what they say      archive.rs    entries of a tar stream (pax.rs, sparse.rs)
//!                                         unpack.rs     applies them (whiteout.rs, attributes.rs)
//!                                         tree.rs       every path below the tree's root
//!                                         ext4.rs       mkfs.ext4, devices, shrink, check
//!                                         inode_times.rs  the same bytes every time
//! ```

mod archive;
mod attributes;
mod drive;
mod ext4;
mod helper;
mod idmap;
mod inode_times;
mod jail;
mod job;
mod layer;
mod limits;
mod measure;
mod pax;
mod sparse;
mod survey;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod whiteout;

use std::{io, path::Path};

use scaibunker_api::worker::ImageFaultCause;
use serde::{Deserialize, Serialize};

use crate::jail::CgroupRoot;

pub use drive::{bake, clear};
pub use helper::helper_main;

/// The hidden subcommand under which this program is the helper.
pub const HELPER_COMMAND: &str = "bake-helper";

/// How a layer's tar stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layer to unpack; its blob must stay in place until the bake has ended.
#[derive(Debug, Clone, Copy)]
pub struct LayerFile<'a> {
    pub path: &'a Path,
    pub compression: Compression,
    /// `sha256:…` of the uncompressed stream, which is checked.
    pub diff_id: Option<&'a str>,
}

/// What to bake.
pub struct BakeJob<'a> {
    /// Lowest first.
    pub layers: &'a [LayerFile<'a>],
    /// Largest file system, in MiB.
    pub size_mib: u32,
    /// A directory that does not exist yet; it is made, and gone when the bake has ended.
    pub work_dir: &'a Path,
    /// Where the file system goes, on the same disk as `work_dir`.
    pub result: &'a Path,
    /// This program, which knows [`HELPER_COMMAND`]; normally `/proc/self/exe`.
    pub program: &'a Path,
    /// Where the helper's memory is bounded, if the host lets us.
    pub cgroups: Option<&'a CgroupRoot>,
    /// Is told the percentage, never the same one twice.
    pub progress: &'a (dyn Fn(u8) + Send + Sync),
}

/// A root file system, ready to be a VM's read-only disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baked {
    /// `sha256:…` of the file.
    pub digest: String,
    pub size_bytes: u64,
}

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// The helper's verdict; the message begins with the cause in words.
    #[error("{message}")]
    Fault { cause: ImageFaultCause, message: String },
    #[error("internal error: cannot {what}")]
    Io { what: &'static str, source: io::Error },
    #[error("internal error: the bake's helper {0}")]
    Helper(String),
    #[error("internal error: the bake did not finish within {limit_s} s")]
    Timeout { limit_s: u64 },
}

impl BakeError {
    /// Whose fault it is.
    #[must_use]
    pub fn cause(&self) -> ImageFaultCause {
        match self {
            Self::Fault { cause, .. } => *cause,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ImageFaultCause::NoSpace
            }
            Self::Io { .. } | Self::Helper(_) | Self::Timeout { .. } => ImageFaultCause::Internal,
        }
    }
}

//! Kernel, initramfs and root file systems: what a microVM is made of.
//!
//! Everything comes from Debian's own packages, is made once and is then taken from the cache,
//! which alone is enough without a network. To have a newer kernel or image, delete its directory
//! below `<cache>/kernel` or `<cache>/images`; a server that runs keeps what it has open.
//!
//! ```text
//! <cache>/kernel/<release>-<recipe>/   vmlinux, modules/NN-name.ko
//!         initramfs/<sha256>.cpio      guest agent + modules
//!         images/<name>-<recipe>/      rootfs.ext4
//! ```
//!
//! `<recipe>` is a digest of what decides the result in this program, so that another version of
//! it never takes a thing that was made otherwise.

mod archive;
mod busybox;
mod bzimage;
mod debian;
mod image;
mod initramfs;
mod kernel;
mod module;
pub(crate) mod program;
mod slot;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use scaibunker_api::image::RootConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use image::{BUILT_IN, image};
pub use kernel::kernel;

/// Is told, in words for a person, what is being made.
pub type Progress = dyn Fn(&str) + Send + Sync;

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
    pub root: RootConfig,
    /// Commands run once in a fresh VM so that a bunker's first ones find their files in memory.
    pub warm_up: Vec<Vec<String>>,
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
}

/// A kernel or an image could not be made; nothing half-made is left in the cache's way.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("`{program}` is not installed: run `apt-get install {package}` as root")]
    Missing { program: &'static str, package: &'static str },
    #[error("cannot run `{program}`")]
    Program { program: &'static str, source: io::Error },
    #[error("`{program}` failed ({status}); {hint}; it said: {output}")]
    Failed { program: &'static str, status: ExitStatus, hint: &'static str, output: String },
    #[error(
        "`{program}` did not finish within {limit_s} s; if the machine is only slow, try again"
    )]
    Timeout { program: &'static str, limit_s: u64 },
    #[error("apt knows no kernel in `{package}`: run `apt-get update` as root, then try again")]
    NoKernelPackage { package: &'static str },
    #[error("cannot use the kernel in {path}")]
    Kernel { path: PathBuf, source: bzimage::BzImageError },
    #[error("cannot use the kernel's modules: {0}")]
    Modules(String),
    #[error("{path} should hold {what} and does not")]
    Contents { path: PathBuf, what: &'static str },
    #[error("there is no built-in image `{name}`; the built-in ones are {}", BUILT_IN.join(", "))]
    UnknownImage { name: String },
}

fn io_failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AssetError {
    let path = path.to_path_buf();
    move |source| AssetError::Io { what, path, source }
}

/// A short name for everything that decides how an asset comes out.
fn recipe(ingredients: &[&str]) -> String {
    let mut hash = Sha256::new();
    for ingredient in ingredients {
        hash.update(ingredient.len().to_le_bytes());
        hash.update(ingredient);
    }
    hexadecimal(&hash.finalize()[..6])
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs what blocks for long, reading and unpacking large files, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AssetError> + Send + 'static,
) -> Result<T, AssetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(AssetError::Modules(error.to_string())),
        },
    }
}

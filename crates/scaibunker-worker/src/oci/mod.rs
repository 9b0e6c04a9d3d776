//! Images of registries and archives: their layers, verified, in the layer cache.
//!
//! ```text
//! reference ─▶ manifest (index ─▶ linux/amd64) ─▶ config ─▶ layers ─▶ LayerCache ─▶ bake
//! archive ──── docker archive, OCI layout or plain tree ───────────▲
//! ```
//!
//! The protocol is the OCI distribution specification's
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>). It is spoken by the
//! crate's own few requests, because layers are resumed where they broke off, and because every
//! address is looked at before it is dialled: a reference comes from a tenant, and must not lead
//! into the host's own network.

mod archive;
mod auth;
mod config;
mod download;
mod layer_cache;
mod manifest;
mod reference;
mod registry;
#[cfg(test)]
mod tests;
mod transport;

use std::{io, path::PathBuf};

use scaibunker_api::{image::RootConfig, worker::ImageFaultCause};

pub use self::{
    archive::open_archive,
    layer_cache::{CachedLayer, LayerCache, LayerLease},
    registry::{Registry, RegistrySettings},
};
use crate::bake::Compression;

/// Largest compressed size of all layers of an image, in bytes.
const MAX_IMAGE_BYTES: u64 = 64 << 30;
const MAX_LAYERS: usize = 256;

/// How much of an image is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// An image whose layers are in the cache.
#[derive(Debug)]
pub struct PulledImage {
    /// Lowest first.
    pub layers: Vec<Layer>,
    pub config: RootConfig,
    /// `sha256:…` of the manifest, if it has one.
    pub manifest_digest: Option<String>,
}

/// A layer in the cache, which stays there as long as this value.
#[derive(Debug)]
pub struct Layer {
    pub path: PathBuf,
    pub compression: Compression,
    /// `sha256:…` of the uncompressed stream, as the image's configuration says.
    pub diff_id: Option<String>,
    _lease: LayerLease,
}

/// An image's layers could not be got.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("invalid image reference `{reference}`: {reason}")]
    Reference { reference: String, reason: &'static str },
    #[error("registry authentication failed: {registry} {reason}")]
    Auth { registry: String, reason: String },
    #[error(
        "no such image: {registry} has no `{name}`; check the reference{}",
        hint_of_auth(*.anonymous)
    )]
    NotFound { registry: String, name: String, anonymous: bool },
    #[error("no such image: `{name}` is not there for linux/amd64, only for {platforms}")]
    Platform { name: String, platforms: String },
    #[error("registry unreachable: {registry}: {reason}; try again with `warm`")]
    Unreachable { registry: String, reason: String },
    #[error("registry not allowed: {registry} {reason}")]
    NotAllowed { registry: String, reason: String },
    #[error("digest mismatch: {what} should be {expected} and is {found}")]
    Digest { what: &'static str, expected: String, found: String },
    #[error("damaged image: {0}")]
    Corrupt(String),
    #[error("image refused: {0}")]
    Refused(String),
    #[error("no space left on the worker's disk: cannot write {path}")]
    NoSpace { path: PathBuf, source: io::Error },
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot prepare requests to registries: {0}")]
    Setup(String),
}

fn hint_of_auth(anonymous: bool) -> &'static str {
    if anonymous { ", or give registry_auth if the image is private" } else { "" }
}

impl OciError {
    /// Whose fault it is.
    #[must_use]
    pub fn cause(&self) -> ImageFaultCause {
        match self {
            Self::Reference { .. } | Self::NotFound { .. } | Self::Platform { .. } => {
                ImageFaultCause::NotFound
            }
            Self::Auth { .. } => ImageFaultCause::RegistryAuth,
            Self::Unreachable { .. } => ImageFaultCause::RegistryUnreachable,
            Self::Digest { .. } => ImageFaultCause::DigestMismatch,
            Self::Corrupt(_) => ImageFaultCause::Corrupt,
            Self::Refused(_) | Self::NotAllowed { .. } => ImageFaultCause::Refused,
            Self::NoSpace { .. } => ImageFaultCause::NoSpace,
            Self::Io { .. } | Self::Setup(_) => ImageFaultCause::Internal,
        }
    }

    /// A failure of the file system at `path`.
    fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, source }
            }
            _ => Self::Io { what, path, source },
        }
    }
}

/// A well-formed `sha256:…`; its hexadecimal digits.
fn sha256_hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hex.len() == 64 && hex.bytes().all(is_hex)).then_some(hex)
}

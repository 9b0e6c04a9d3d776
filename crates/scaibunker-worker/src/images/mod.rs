//! The images of a worker: what it was asked for, what it has, how it gets the rest.
//!
//! ```text
//! ensure ─▶ pending ─▶ pulling ─▶ baking ─▶ ready ─▶ (stored at the proxy: `baked` is reported)
//!              ▲          │          │        │
//!              │          └──────────┴────────┼──▶ failed ─▶ asked again: pending
//!              └──────── evicted ◀────────────┘
//! ```
//!
//! A root file system is kept under its digest, an image under its id: two images with the same
//! content are one file. What runs and what is under way is never evicted; everything else goes,
//! least recently used first, when the budget or the disk is used up.

mod budget;
mod eviction;
mod fault;
mod records;
mod roots;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod transfer;
mod work;

use std::path::PathBuf;

pub use self::{
    roots::RootLease,
    store::{ImageEvent, Images},
};
use crate::oci::RegistrySettings;

/// Settings of a worker's images.
#[derive(Debug, Clone)]
pub struct ImageSettings {
    /// Below it are `roots`, `layers`, `bake` and `image-ids`.
    pub cache_dir: PathBuf,
    /// Archives that a request may name lie below it.
    pub import_dir: PathBuf,
    /// Bytes that roots and layers may take together.
    pub budget_bytes: u64,
    pub registries: RegistrySettings,
    /// This program, which bakes in a process of its own.
    pub program: PathBuf,
}

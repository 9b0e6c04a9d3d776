//! The worker: everything that happens on a host that runs bunkers.
//!
//! Only `engine/qemu` knows a VMM's name; only `jail` starts processes that run guest code.

pub mod assets;
mod channel;
pub mod config;
pub mod engine;
pub mod jail;
mod scratch;
mod vm_home;

//! The worker: everything that happens on a host that runs bunkers.
//!
//! Only `engine/qemu` knows a VMM's name; only `jail` starts processes that run guest code.

pub mod activity;
pub mod assets;
pub mod bake;
pub mod bunker_state;
pub mod channel;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod execs;
pub mod gpus;
#[cfg(test)]
mod guest_double;
mod guest_log;
mod http_client;
pub mod images;
pub mod jail;
pub mod link;
pub mod network;
pub mod oci;
pub mod pool;
pub mod scratch;
pub mod seat;
pub mod snapshots;
pub mod storage;
pub mod supervisor;
#[cfg(test)]
mod test_server;
pub mod vitals;
pub mod vm;
pub mod vm_home;
pub mod worker;

use scaibunker_api::error::chain;
pub use worker::{Worker, WorkerError};

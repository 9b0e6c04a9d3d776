//! The worker: everything that happens on a host that runs bunkers.
//!
//! Only `engine/qemu` knows a VMM's name; only `jail` starts processes that run guest code.

pub mod assets;
pub mod channel;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod guest_log;
pub mod jail;
pub mod link;
pub mod pool;
pub mod scratch;
pub mod seat;
pub mod supervisor;
pub mod vm;
pub mod vm_home;
pub mod worker;

pub use worker::{Worker, WorkerError};

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

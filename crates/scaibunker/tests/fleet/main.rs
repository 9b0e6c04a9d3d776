//! A fleet of real processes: controllers on one PostgreSQL, one Redis and one S3 server, and
//! workers with real microVMs that link with all of them.
//!
//! The guest agent must have been built and QEMU, PostgreSQL, Redis and Garage be installed:
//! `./scripts/test` sees to all of them.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod api;
mod bench;
mod cluster;
mod daemon;
mod faults;
mod loss;
mod manual;
mod network;
#[path = "../../../scaibunker-storage/tests/common/mod.rs"]
#[allow(dead_code, reason = "another crate's tests use more of it")]
mod s3;
#[path = "../../../scaibunker-controller/tests/servers/mod.rs"]
mod servers;
mod tls;
mod vms;

//! The controller through its HTTP API, with simulated workers on real links.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails shall say where")]

mod audit;
mod bridges;
mod client;
mod contention;
mod conventions;
mod create;
mod errors;
mod events;
mod evictions;
mod exec;
mod exec_registry;
mod files;
mod fork;
mod iam;
mod images;
mod isolation;
mod life;
mod limits;
mod lists;
mod losses;
mod oidc;
mod operations;
mod pause;
mod people;
mod quotas;
mod reconcile;
mod replicas;
mod schemathesis;
mod server;
#[path = "../servers/mod.rs"]
mod servers;
mod shell;
mod sim_worker;
mod snapshots;
mod state;
mod storage;
mod transfers;
mod workers;

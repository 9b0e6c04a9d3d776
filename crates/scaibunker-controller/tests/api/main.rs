//! The controller through its HTTP API, with simulated workers on real links.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails shall say where")]

mod client;
mod create;
mod errors;
mod events;
mod exec;
mod exec_registry;
mod files;
mod iam;
mod life;
mod lists;
mod oidc;
mod people;
mod quotas;
mod reconcile;
mod server;
mod shell;
mod sim_worker;
mod storage;
mod transfers;

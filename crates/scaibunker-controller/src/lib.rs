//! HTTP API, rules, store and fleet of the control plane.
//!
//! Imports go one way: `http` reads requests and calls the services (`bunkers`, `exec`, `files`,
//! `iam`, `quotas`, `workers`), which decide by the rules of `domain` and carry out on `store`, `ledger`
//! and `fleet`; `tasks` does the same without requests. Only `store` knows SQL, only `ledger` knows
//! Redis, only `fleet` speaks over links, and `domain` does none of it.

mod app;
mod audit;
mod bridges;
mod bunkers;
mod config;
mod controller;
mod creation;
mod credentials;
mod data_dir;
mod domain;
mod egress_audit;
mod exec;
mod failure;
mod files;
mod fleet;
mod http;
mod iam;
mod images;
mod ledger;
mod limits;
mod metrics;
mod quotas;
mod replicas;
mod scan;
pub mod server;
pub mod snapshots;
mod store;
mod tasks;
#[cfg(test)]
#[path = "../tests/servers/mod.rs"]
mod test_servers;
mod workers;

pub use self::{
    config::{ControllerConfig, DEFAULT_SNAPSHOT_RETENTION_DAYS, ObjectsConfig, RateLimits},
    controller::{Controller, ControllerError},
    credentials::OidcConfig,
    data_dir::DataDirError,
    ledger::{InvalidRedisUrl, RedisUrl},
    store::{DatabaseUrl, InvalidDatabaseUrl, StoreError},
};

/// Bytes as lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

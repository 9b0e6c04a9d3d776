//! Wire types of the HTTP contract: what clients, controllers and workers say to each other.
//!
//! This crate holds data only. Rules live in the controller's `domain`, I/O in the crates that
//! speak the types.

pub mod audit;
pub mod bridge;
pub mod bunker;
pub mod egress;
pub mod envelope;
pub mod error;
pub mod exec;
pub mod file;
pub mod host_name;
pub mod iam;
pub mod ids;
pub mod image;
pub mod interface;
pub mod permission;
pub mod quota;
pub mod shell;
pub mod snapshot;
pub mod storage;
pub mod time;
pub mod worker;

/// Path prefix of the module's routes.
pub const API_PREFIX: &str = "/v1/modules/scaibunker";

/// Header that carries the request id through every tier.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

//! What workers and controllers say to each other, and workers as operators see them.
//!
//! A worker registers, sends heartbeats and dials one link to every controller; over the link it
//! *serves* the routes below, all JSON unless noted:
//!
//! | route | does |
//! | --- | --- |
//! | `GET /bunkers` | [`BunkerReport`] of every bunker the worker holds |
//! | `GET /bunkers/{id}` | one [`BunkerReport`], 404 when the worker does not hold it |
//! | `PUT /bunkers/{id}` | [`StartBunker`] → [`BunkerReport`] once the bunker runs; idempotent |
//! | `DELETE /bunkers/{id}` | frees everything, forgets the bunker; idempotent, 204 |
//! | `POST /bunkers/{id}/exec` | exec frames both ways (`scaibunker-guest-protocol`), the first an [`StartExec`] |
//!
//! The answers of `POST /workers/register` ([`Registered`]) and `POST /workers/{id}/heartbeat` (an
//! empty object) are in the envelope of [`crate::envelope`], as those of every route of the API; a
//! worker that the controller does not know is answered 404 and registers again. A controller
//! sends the id of the request it acts for in the header [`crate::REQUEST_ID_HEADER`].
//!
//! Failures on the link are an [`crate::error::ErrorBody`] with that code's HTTP status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    exec::Command,
    ids::{BunkerId, ExecId, WorkerId},
    time,
};

/// Version of everything in this module; a controller refuses a worker that is more than one off.
pub const PROTOCOL_VERSION: u32 = 1;

/// Value of the `Upgrade` header with which a worker asks for its link.
pub const LINK_PROTOCOL: &str = "scaibunker-link";

/// Seconds between two heartbeats.
pub const HEARTBEAT_INTERVAL_S: u64 = 10;

/// What a host offers to bunkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    pub cpu_millicores: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
}

/// An image that a worker can start bunkers from at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyImage {
    pub name: String,
    pub digest: String,
    pub size_bytes: u64,
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
}

/// The body of `POST /workers/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterWorker {
    /// The id of an earlier registration, which the worker keeps on its disk.
    pub worker_id: Option<WorkerId>,
    pub name: String,
    pub version: String,
    pub protocol_version: u32,
    /// Such as `qemu 7.2.22 (tcg)`.
    pub engine: String,
    pub capacity: Capacity,
    pub images: Vec<ReadyImage>,
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub worker_id: WorkerId,
}

/// The body of `POST /workers/{id}/heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub images: Vec<ReadyImage>,
    pub bunkers: Vec<BunkerReport>,
}

/// What a worker knows of one bunker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BunkerReport {
    pub id: BunkerId,
    pub state: WorkerBunkerState,
    pub started_at: Option<Timestamp>,
}

/// The states a worker distinguishes. `Ended` stays listed until the controller deletes it, so
/// that a reason is never lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkerBunkerState {
    Starting,
    Running,
    Ended { reason: String },
}

/// The body of `PUT /bunkers/{id}` on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartBunker {
    /// Image name as the worker reported it.
    pub image: String,
    pub cpu_millicores: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub env_vars: BTreeMap<String, String>,
}

/// The first frame of an exec on the link, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartExec {
    pub exec_id: ExecId,
    pub command: Command,
    pub cwd: Option<String>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub timeout_s: u64,
}

/// Whether a worker can be given bunkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    Online,
    Offline,
}

/// A worker's record, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub id: WorkerId,
    pub name: String,
    pub status: WorkerStatus,
    #[serde(with = "time::optional")]
    pub last_heartbeat: Option<Timestamp>,
    pub version: String,
    pub engine: String,
    pub capacity: Capacity,
    pub allocated: Capacity,
    pub images: Vec<ReadyImage>,
}

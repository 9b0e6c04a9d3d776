//! Bridges of workers, which `transit` bunkers are attached to.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{BridgeId, WorkerId},
    time,
};

/// A Linux bridge on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bridge {
    pub id: BridgeId,
    /// What the network device on the worker is called.
    pub name: String,
    pub worker_id: WorkerId,
    /// Bytes of the largest packet; `None`: what the bridge has.
    pub mtu: Option<u32>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /bridges`. A bridge that the worker's host has already is taken as it is, and stays
/// when its record is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBridge {
    pub name: String,
    pub worker_id: WorkerId,
    #[serde(default)]
    pub mtu: Option<u32>,
}

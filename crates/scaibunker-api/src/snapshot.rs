//! Snapshots as clients see them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bunker::present,
    ids::{BunkerId, ImageId, SnapshotId, TenantId, UserId},
    time,
};

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// The bunker's files.
    #[default]
    Disk,
    /// Its files, its memory and everything that runs in it.
    Memory,
}

/// Where a snapshot is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStatus {
    /// It is taken and stored.
    Creating,
    Ready,
    Failed,
}

/// The body of `POST /bunkers/{id}/snapshot`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    #[serde(default)]
    pub kind: SnapshotKind,
    /// When it is deleted; without it, it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The body of `PATCH /snapshots/{id}`: what is absent stays, `null` takes it away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSnapshot {
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
}

/// A snapshot's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub tenant_id: TenantId,
    pub owner_id: UserId,
    /// The bunker that it was taken of, which may have ended.
    pub bunker_id: BunkerId,
    /// The image below the bunker's files.
    pub image_id: ImageId,
    pub name: Option<String>,
    pub kind: SnapshotKind,
    pub status: SnapshotStatus,
    /// Why it failed.
    pub status_reason: Option<String>,
    /// Bytes that it holds, in whole chunks.
    pub size_bytes: u64,
    /// Bytes that were stored for it: what the tenant's other snapshots had already is not counted.
    pub stored_bytes: u64,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub expires_at: Option<Timestamp>,
}

/// The answer of `POST /snapshots/{id}/verify`: everything of the snapshot was read and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotCheck {
    pub snapshot_id: SnapshotId,
    /// Chunks that were read.
    pub chunks: u64,
    /// What is wrong, a line each; none of a sound snapshot.
    pub damage: Vec<String>,
}

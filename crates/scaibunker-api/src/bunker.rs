//! Bunkers as clients see them.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    ids::{BunkerId, EventId, ImageId, SnapshotId, TenantId, UserId, WorkerId},
    time,
};

/// `pending → provisioning → running ⇄ paused → terminating → terminated`, and `failed` from any
/// of the first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BunkerStatus {
    Pending,
    Provisioning,
    Running,
    Paused,
    Terminating,
    Terminated,
    Failed,
}

impl BunkerStatus {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Provisioning,
        Self::Running,
        Self::Paused,
        Self::Terminating,
        Self::Terminated,
        Self::Failed,
    ];

    /// The status as it appears on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Terminating => "terminating",
            Self::Terminated => "terminated",
            Self::Failed => "failed",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// A terminal bunker holds no resource and never changes again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Terminated | Self::Failed)
    }
}

/// How long a bunker is meant to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LifecycleMode {
    #[default]
    Ephemeral,
    Session,
    Persistent,
}

/// What a bunker may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkProfile {
    #[default]
    Isolated,
    Registry,
    Allowlisted,
    Unrestricted,
    Transit,
}

/// Who a bunker is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionType {
    #[default]
    Standalone,
    Scaicore,
    Scaiwave,
    Api,
}

impl LifecycleMode {
    /// Every mode, shortest life first.
    pub const ALL: [Self; 3] = [Self::Ephemeral, Self::Session, Self::Persistent];

    /// The mode as it appears on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ephemeral => "ephemeral",
            Self::Session => "session",
            Self::Persistent => "persistent",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

impl NetworkProfile {
    /// The profile as it appears on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Registry => "registry",
            Self::Allowlisted => "allowlisted",
            Self::Unrestricted => "unrestricted",
            Self::Transit => "transit",
        }
    }
}

/// What becomes of an idle bunker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnIdle {
    /// It ends.
    #[default]
    Terminate,
    /// It is paused, and the next request that needs it running resumes it.
    Pause,
}

/// The body of `POST /bunkers/{id}/fork`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkRequest {
    /// How many children.
    #[schemars(range(min = 1, max = 100))]
    pub count: u32,
}

/// One network interface of a `transit` bunker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub if_name: String,
    pub bridge_name: String,
    /// Drops frames whose source is not the interface's own.
    #[serde(default = "spoof_guard_by_default")]
    pub spoof_guard: bool,
    /// `None`: the worker chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

fn spoof_guard_by_default() -> bool {
    true
}

/// The body of `POST /bunkers`. A `None` takes the image's or the mode's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBunker {
    /// Name, `name@digest` or id. Empty only with `snapshot_id`.
    #[serde(default)]
    #[schemars(length(max = 255))]
    pub image: String,
    /// Start from this snapshot instead of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<SnapshotId>,
    #[serde(default)]
    pub lifecycle_mode: LifecycleMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_set: BTreeMap<String, String>,
    #[serde(default)]
    pub network_profile: NetworkProfile,
    /// Host names, required with `allowlisted` and refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_allowlist: Option<Vec<String>>,
    /// Required with `transit` and refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<Interface>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1_024_000))]
    pub cpu_millicores: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 128), extend("multipleOf" = 2))]
    pub memory_mb: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub disk_mb: Option<u32>,
    #[serde(default)]
    pub gpu_count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub gpu_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub max_lifetime_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub idle_timeout_s: Option<u64>,
    /// What becomes of it after `idle_timeout_s`.
    #[serde(default)]
    pub on_idle: OnIdle,
    /// How long it may be paused before its memory is written out and its worker's freed; 3600 unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub pause_evict_after_s: Option<u64>,
    #[serde(default)]
    pub session_type: SessionType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub session_ref: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Egress cap, 1–10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub bandwidth_mbit: Option<u32>,
    #[serde(default)]
    pub egress_audit: bool,
}

/// The body of `PATCH /bunkers/{id}`: what is absent stays, `null` goes back to the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchBunker {
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    /// Replaces all labels.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub label_set: Option<Option<BTreeMap<String, String>>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_lifetime_s: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub idle_timeout_s: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<Option<OnIdle>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub pause_evict_after_s: Option<Option<u64>>,
}

/// Tells a field that is `null` from one that is absent.
pub(crate) fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A bunker's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bunker {
    pub id: BunkerId,
    pub tenant_id: TenantId,
    pub owner_id: UserId,
    pub status: BunkerStatus,
    /// Why the bunker is in a state that its owner did not ask for.
    pub status_reason: Option<String>,
    pub worker_id: Option<WorkerId>,
    pub image_id: ImageId,
    pub image: String,
    /// The snapshot that it started from.
    #[serde(default)]
    pub snapshot_id: Option<SnapshotId>,
    /// The bunker that it was forked from.
    #[serde(default)]
    pub parent_id: Option<BunkerId>,
    pub lifecycle_mode: LifecycleMode,
    pub name: Option<String>,
    pub label_set: BTreeMap<String, String>,
    pub network_profile: NetworkProfile,
    #[serde(default)]
    pub network_allowlist: Option<Vec<String>>,
    #[serde(default)]
    pub interfaces: Option<Vec<Interface>>,
    pub cpu_millicores: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    #[serde(default)]
    pub gpu_count: u32,
    #[serde(default)]
    pub gpu_type: Option<String>,
    pub max_lifetime_s: Option<u64>,
    pub idle_timeout_s: Option<u64>,
    #[serde(default)]
    pub on_idle: OnIdle,
    #[serde(default)]
    pub pause_evict_after_s: Option<u64>,
    pub session_type: SessionType,
    pub session_ref: Option<String>,
    pub env_vars: BTreeMap<String, String>,
    #[serde(default)]
    pub bandwidth_mbit: Option<u32>,
    #[serde(default)]
    pub egress_audit: bool,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub started_at: Option<Timestamp>,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub last_active_at: Option<Timestamp>,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub expires_at: Option<Timestamp>,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub terminated_at: Option<Timestamp>,
    /// Whether its memory and disk are written out, so that no worker has it; it is `paused` then.
    #[serde(default)]
    pub evicted: bool,
    /// In the bunker's own network, where nothing but its gateway reaches it; `null` without a network,
    /// and on bridges, where addresses are not the worker's to give.
    pub ip_address: Option<IpAddr>,
}

/// One event of `GET /bunkers/{id}/events`; its name is `status`. The first tells the status that the
/// bunker has when the stream begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusEvent {
    pub id: EventId,
    pub status: BunkerStatus,
    pub status_reason: Option<String>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub at: Timestamp,
}

/// What a bunker uses right now: the answer of `GET /bunkers/{id}/metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BunkerMetrics {
    /// CPU time of the whole microVM since it runs.
    pub cpu_time_ms: u64,
    /// Host memory that the microVM has touched itself; what it shares with its template is not counted.
    pub memory_bytes: u64,
    /// Bytes of the scratch disk that hold something.
    pub disk_bytes: u64,
    /// Commands and shells that run.
    pub execs_running: u32,
    /// What it has used of the network, up to the second before; none of one without a network.
    #[serde(default)]
    pub network: Option<NetworkUsage>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub last_active_at: Timestamp,
}

/// What a bunker has used of the network since it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkUsage {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Connections that were allowed.
    pub connections: u64,
    pub open_connections: u64,
    /// Connections, requests and lookups that were refused.
    pub refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_tells_null_from_absent() {
        let patch: PatchBunker =
            serde_json::from_str(r#"{"name":null,"idle_timeout_s":5}"#).unwrap();
        assert_eq!(patch.name, Some(None));
        assert_eq!(patch.idle_timeout_s, Some(Some(5)));
        assert_eq!(patch.label_set, None);
    }
}

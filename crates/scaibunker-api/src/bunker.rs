//! Bunkers as clients see them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BunkerId, ImageId, TenantId, UserId, WorkerId};

/// `pending → provisioning → running ⇄ paused → terminating → terminated`, and `failed` from any
/// of the first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LifecycleMode {
    #[default]
    Ephemeral,
    Session,
    Persistent,
}

/// What a bunker may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionType {
    #[default]
    Standalone,
    Scaicore,
    Scaiwave,
    Api,
}

/// The body of `POST /bunkers`. A `None` takes the image's or the mode's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBunker {
    /// Name, `name@digest` or id.
    pub image: String,
    #[serde(default)]
    pub lifecycle_mode: LifecycleMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_set: BTreeMap<String, String>,
    #[serde(default)]
    pub network_profile: NetworkProfile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lifetime_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_s: Option<u64>,
    #[serde(default)]
    pub session_type: SessionType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ref: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
}

/// A bunker's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    pub lifecycle_mode: LifecycleMode,
    pub name: Option<String>,
    pub label_set: BTreeMap<String, String>,
    pub network_profile: NetworkProfile,
    pub cpu_millicores: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub max_lifetime_s: Option<u64>,
    pub idle_timeout_s: Option<u64>,
    pub session_type: SessionType,
    pub session_ref: Option<String>,
    pub env_vars: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub last_active_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub terminated_at: Option<Timestamp>,
    pub ip_address: Option<String>,
}

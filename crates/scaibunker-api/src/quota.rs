//! Quotas: profiles of caps, whom they are assigned to, and what is used of them.
//!
//! | route | takes | answers |
//! | --- | --- | --- |
//! | `GET POST /quota-profiles`, `GET PATCH DELETE …/{id}` | [`CreateQuotaProfile`], [`PatchQuotaProfile`] | [`QuotaProfile`] |
//! | `GET POST /quota-profiles/{id}/assignments`, `DELETE …/{assignment_id}` | [`CreateAssignment`] | [`Assignment`] |
//! | `GET /quota-profiles/usage` | | [`ProfileUsage`], one for each profile that applies to the caller |

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bunker::present,
    ids::{QuotaAssignmentId, QuotaProfileId, TenantId},
    time,
};

/// Something that quotas count.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    ConcurrentBunkers,
    PersistentBunkers,
    CpuMillicores,
    MemoryMb,
    DiskMb,
    GpuCount,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 6] = [
        Self::ConcurrentBunkers,
        Self::PersistentBunkers,
        Self::CpuMillicores,
        Self::MemoryMb,
        Self::DiskMb,
        Self::GpuCount,
    ];

    /// The resource as it appears on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConcurrentBunkers => "concurrent_bunkers",
            Self::PersistentBunkers => "persistent_bunkers",
            Self::CpuMillicores => "cpu_millicores",
            Self::MemoryMb => "memory_mb",
            Self::DiskMb => "disk_mb",
            Self::GpuCount => "gpu_count",
        }
    }
}

/// The caps of a profile; `None` is no cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Caps {
    pub max_concurrent_bunkers: Option<u64>,
    pub max_persistent_bunkers: Option<u64>,
    pub max_cpu_millicores: Option<u64>,
    pub max_memory_mb: Option<u64>,
    pub max_disk_mb: Option<u64>,
    pub max_gpu_count: Option<u64>,
    /// In millicores, for one bunker.
    pub per_bunker_max_cpu: Option<u64>,
    /// In MiB, for one bunker.
    pub per_bunker_max_memory: Option<u64>,
    /// In MiB, for one bunker.
    pub per_bunker_max_disk: Option<u64>,
    pub per_bunker_max_gpu: Option<u64>,
}

/// A quota profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuotaProfile {
    pub id: QuotaProfileId,
    /// `None`: one of the platform.
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub description: Option<String>,
    /// Whether it applies to whom nothing is assigned. There is exactly one such profile.
    pub is_default: bool,
    #[serde(flatten)]
    pub caps: Caps,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

macro_rules! profile_bodies {
    ($($(#[$doc:meta])* $cap:ident;)*) => {
        /// The body of `POST /quota-profiles`.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct CreateQuotaProfile {
            pub name: String,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub description: Option<String>,
            /// The caller's own tenant unless given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub tenant_id: Option<TenantId>,
            /// Makes a profile of the platform, for super admins only.
            #[serde(default)]
            pub platform: bool,
            $($(#[$doc])* #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $cap: Option<u64>,)*
        }

        impl CreateQuotaProfile {
            /// The caps asked for.
            #[must_use]
            pub fn caps(&self) -> Caps {
                Caps { $($cap: self.$cap,)* }
            }
        }

        /// The body of `PATCH /quota-profiles/{id}`; `null` takes a cap away.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct PatchQuotaProfile {
            #[serde(skip_serializing_if = "Option::is_none")]
            pub name: Option<String>,
            #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            pub description: Option<Option<String>>,
            $(#[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            pub $cap: Option<Option<u64>>,)*
        }

        impl PatchQuotaProfile {
            /// `caps` with the changes made.
            #[must_use]
            pub fn apply_to(&self, caps: Caps) -> Caps {
                Caps { $($cap: self.$cap.unwrap_or(caps.$cap),)* }
            }
        }
    };
}

// Unknown fields cannot be refused in a struct that flattens another one, hence the repetition.
profile_bodies! {
    max_concurrent_bunkers;
    max_persistent_bunkers;
    max_cpu_millicores;
    max_memory_mb;
    max_disk_mb;
    max_gpu_count;
    /// In millicores.
    per_bunker_max_cpu;
    /// In MiB.
    per_bunker_max_memory;
    /// In MiB.
    per_bunker_max_disk;
    per_bunker_max_gpu;
}

/// What a profile is assigned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    User,
    Group,
    /// A whole tenant; for admins of its partner.
    Tenant,
}

/// Who shares the caps of an assigned profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AssignmentMode {
    /// One user has them alone.
    Individual,
    /// All members of the group or tenant share them.
    Shared,
    /// Each member has them alone.
    PerUser,
}

impl TargetKind {
    /// The kind as it appears on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Tenant => "tenant",
        }
    }
}

impl AssignmentMode {
    /// The mode as it appears on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Individual => "individual",
            Self::Shared => "shared",
            Self::PerUser => "per_user",
        }
    }
}

/// A profile that is assigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Assignment {
    pub id: QuotaAssignmentId,
    pub profile_id: QuotaProfileId,
    pub target_kind: TargetKind,
    pub target_id: String,
    pub mode: AssignmentMode,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /quota-profiles/{id}/assignments`. A target has at most one assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAssignment {
    pub target_kind: TargetKind,
    pub target_id: String,
    /// `individual` for a user; for a group `shared` unless given; for a tenant `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AssignmentMode>,
}

/// What is used of one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileUsage {
    pub profile_id: QuotaProfileId,
    pub profile_name: String,
    /// Where it is counted: `user:{id}`, `group:{id}` or `tenant:{id}`.
    pub bucket: String,
    pub resources: BTreeMap<Resource, ResourceUsage>,
}

/// What is used of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceUsage {
    pub current: u64,
    /// The profile's cap or the platform's, whichever is lower; `None` is no cap.
    pub cap: Option<u64>,
    /// What is left below the cap; `None` without a cap.
    pub headroom: Option<u64>,
}

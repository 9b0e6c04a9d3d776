//! Images, what workers have of them, their groups and their scans, as clients see them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{AvailabilityGroupId, ImageId, PartnerId, TenantId, UserId, WorkerId},
    time,
};

/// Largest root file system in MiB unless the request says another.
pub const DEFAULT_SIZE_MIB: u32 = 2048;

/// An image's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    pub id: ImageId,
    pub name: String,
    pub scope: ImageScope,
    /// The tenant of an image with the scope `tenant`.
    pub tenant_id: Option<TenantId>,
    /// The partner of an image with the scope `partner`.
    pub partner_id: Option<PartnerId>,
    /// `None` for an image that comes with the workers.
    pub created_by: Option<UserId>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
    pub source: ImageOrigin,
    pub status: ImageStatus,
    /// Why the status is `failed`.
    pub status_reason: Option<String>,
    /// `sha256:…` of the baked root file system, once there is one.
    pub digest: Option<String>,
    /// `sha256:…` of the manifest that was baked: the one for this platform, if the reference names
    /// several.
    pub manifest_digest: Option<String>,
    /// Bytes of the baked root file system.
    pub size_bytes: Option<u64>,
    /// Largest root file system that is baked, in MiB.
    pub size_mib: u32,
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
    /// Workers fetch it when a bunker wants it, instead of beforehand.
    pub lazy_pull: bool,
    /// Variables of every command, over those of the image's own configuration.
    pub entrypoint_env: BTreeMap<String, String>,
    /// What the image's own configuration says, once it is baked.
    pub config: Option<RootConfig>,
    pub scan_status: ScanStatus,
}

/// Who sees an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageScope {
    Tenant,
    Partner,
    Platform,
}

/// Whether an image can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageStatus {
    /// Not baked yet.
    Pending,
    /// A worker bakes it.
    Baking,
    /// Baked; `GET /images/{id}/cache` tells which workers have it.
    Ready,
    /// It could not be baked; `POST /images/{id}/warm` tries again.
    Failed,
}

/// Where an image came from. Credentials are never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImageOrigin {
    /// Made by the workers themselves from Debian's packages.
    BuiltIn,
    Oci {
        #[serde(rename = "ref")]
        reference: String,
        has_registry_auth: bool,
    },
    Tar {
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

/// What an image's configuration says about its commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RootConfig {
    /// `name`, `uid`, `name:group` or `uid:gid`; empty means root.
    pub user: String,
    pub env: BTreeMap<String, String>,
    /// Where commands start unless they say another place; empty means the user's home.
    pub workdir: String,
    /// Kept for callers to see; a bunker starts without running it.
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
}

/// The body of `POST /images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateImage {
    pub name: String,
    pub source: ImageSource,
    /// Largest root file system, in MiB.
    #[serde(default = "default_size_mib")]
    pub size_mib: u32,
    pub default_cpu_millicores: Option<u32>,
    pub default_memory_mb: Option<u32>,
    pub default_disk_mb: Option<u32>,
    #[serde(default = "default_scope")]
    pub scope: ImageScope,
    #[serde(default)]
    pub lazy_pull: bool,
    #[serde(default)]
    pub entrypoint_env: BTreeMap<String, String>,
}

fn default_size_mib() -> u32 {
    DEFAULT_SIZE_MIB
}

fn default_scope() -> ImageScope {
    ImageScope::Tenant
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSource {
    Oci {
        /// Such as `registry.example/team/app:1.2` or `…@sha256:…`.
        #[serde(rename = "ref")]
        reference: String,
        registry_auth: Option<RegistryAuth>,
    },
    /// A docker archive, an OCI layout or a plain tree; exactly one of the two.
    Tar {
        /// A file below the workers' import directory; the platform's admins only.
        path: Option<String>,
        /// An object that was uploaded below `images/uploads/{tenant_id}/`.
        key: Option<String>,
    },
}

/// Who asks the registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryAuth {
    pub username: String,
    /// A password or an access token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryAuth(…)")
    }
}

/// The body of `PATCH /images/{id}`: what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchImage {
    pub name: Option<String>,
    pub default_cpu_millicores: Option<u32>,
    pub default_memory_mb: Option<u32>,
    pub default_disk_mb: Option<u32>,
    pub lazy_pull: Option<bool>,
    pub entrypoint_env: Option<BTreeMap<String, String>>,
    /// Replaces the credentials that `warm` uses.
    pub registry_auth: Option<RegistryAuth>,
}

/// The data of the answer to `POST /images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedImage {
    #[serde(flatten)]
    pub image: Image,
    pub warm: WarmCounts,
}

/// What warming found, in workers: those of the image's availability groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WarmCounts {
    /// It is on its way to these.
    pub queued: u64,
    /// These have it.
    pub ready: u64,
    /// These could not be asked to take it.
    pub failed: u64,
    /// Offline ones, and all of an image with `lazy_pull` that is only registered.
    pub skipped: u64,
}

/// What one worker has of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageCacheRow {
    pub worker_id: WorkerId,
    pub status: CacheStatus,
    /// Percent of the step that `status` names.
    pub progress: u8,
    /// Why it failed, beginning with the cause; or why a `pending` one waits.
    pub error: Option<String>,
    /// Bytes of the root file system, once it is known.
    pub size_bytes: Option<u64>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub updated_at: Timestamp,
}

/// How far a worker has come with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheStatus {
    Pending,
    Pulling,
    Baking,
    Ready,
    Failed,
}

/// Which images are kept on which workers. Every worker and every image is put into the group
/// `default` when it first appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AvailabilityGroup {
    pub id: AvailabilityGroupId,
    pub name: String,
    pub is_default: bool,
    pub worker_ids: Vec<WorkerId>,
    pub image_ids: Vec<ImageId>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /availability-groups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAvailabilityGroup {
    pub name: String,
}

/// The body of `POST /availability-groups/{id}/images`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddGroupImage {
    pub image_id: ImageId,
}

/// The body of `POST /availability-groups/{id}/workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddGroupWorker {
    pub worker_id: WorkerId,
}

/// What is known of an image's faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScanStatus {
    /// The scanner has not come to it; it runs every two minutes, and when there is something new.
    Pending,
    Running,
    /// Nothing was found.
    Clean,
    /// `counts` and `findings` tell what was found.
    Vulnerable,
    /// `message` tells why.
    Failed,
    /// There is nothing to scan; `message` tells why.
    Skipped,
}

/// The data of the answers of `/images/{id}/scan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageScan {
    pub image_id: ImageId,
    pub status: ScanStatus,
    pub message: Option<String>,
    /// Such as `trivy 0.70.0`.
    pub scanner: Option<String>,
    pub counts: SeverityCounts,
    /// The worst first; at most 1,000.
    pub findings: Vec<Finding>,
    /// Whether there were more findings than are kept.
    pub truncated: bool,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub requested_at: Option<Timestamp>,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub finished_at: Option<Timestamp>,
}

/// Findings by severity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SeverityCounts {
    pub critical: u64,
    pub high: u64,
    pub medium: u64,
    pub low: u64,
    pub unknown: u64,
}

/// How bad a finding is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Unknown,
    Low,
    Medium,
    High,
    Critical,
}

/// What kind of fault was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    Vulnerability,
    /// Such as a key left in a file; what it says is not kept.
    Secret,
}

/// One fault of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    pub kind: FindingKind,
    pub severity: Severity,
    /// Such as `CVE-2024-1234`, or the rule's name.
    pub id: String,
    pub title: String,
    /// The file or the package list it was found in.
    pub target: String,
    pub package: Option<String>,
    pub installed_version: Option<String>,
    pub fixed_version: Option<String>,
}

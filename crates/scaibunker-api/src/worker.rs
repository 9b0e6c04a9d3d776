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
//! | `POST /bunkers/{id}/pause` | stops its CPUs; idempotent, 204 |
//! | `POST /bunkers/{id}/resume` | lets them run again, with the clock set; idempotent, 204 |
//! | `GET /bunkers/{id}/metrics` | [`crate::bunker::BunkerMetrics`] |
//! | `DELETE /bunkers/{id}` | frees everything, forgets the bunker; idempotent, 204 |
//! | `POST /bunkers/{id}/exec` | starts a command: exec frames both ways (`scaibunker-guest-protocol`), see below |
//! | `GET /bunkers/{id}/execs` | [`ExecReport`] of every command it runs or remembers, oldest first |
//! | `GET /bunkers/{id}/execs/{exec_id}` | one [`ExecReport`] |
//! | `POST /bunkers/{id}/execs/{exec_id}/attach?from_seq=` | joins a command: exec frames both ways |
//! | `POST /bunkers/{id}/execs/{exec_id}/input` | `Stdin` frames and at most one `StdinEnd`; 204 once the command's input has taken them |
//! | `POST /bunkers/{id}/execs/{exec_id}/signal` | [`SendSignal`]; 204 |
//! | `POST /bunkers/{id}/execs/{exec_id}/resize` | [`ResizeTerminal`]; 204 |
//! | `DELETE /bunkers/{id}/execs/{exec_id}` | kills the command's processes and forgets it; 204 |
//! | `… /bunkers/{id}/files…` | the guest's own routes (`scaibunker-guest-protocol::files`), passed on |
//! | `POST /bunkers/{id}/files/commit` | [`CommitFile`] → the guest's entry; puts an object of the storage proxy into the bunker |
//! | `PUT /bridges/{name}` | [`MakeBridge`]; makes the bridge, or takes the one that the host has; idempotent, 204 |
//! | `DELETE /bridges/{name}` | removes the bridge if the worker made it; idempotent, 204 |
//! | `GET /images` | [`ImageReport`] of every image it was asked for |
//! | `GET /images/{id}` | one [`ImageReport`], 404 when it was never asked for it, or has forgotten it |
//! | `PUT /images/{id}` | [`EnsureImage`] → [`ImageReport`] at once, 202; the work goes on. Idempotent: what is ready or under way stays, what failed or was evicted is tried again |
//! | `DELETE /images/{id}` | gives up what is under way and frees the image once no bunker uses it; idempotent, 204 |
//!
//! An exec stream towards the worker is a `Spec` frame with a [`StartExec`] (not on `attach`), then
//! `Stdin` frames and at most one `StdinEnd`. Its end without `StdinEnd` closes the input of an
//! attached command; that of a detached one or a shell stays open. Back come `Started` (an
//! [`ExecStarted`]), output, `Gap`s (an `OutputGap`) and at last `Exit` (an [`ExecEnd`]) or `Error`.
//! Output frames are numbered: the first after `Started` has its `next_seq`, each the one after its
//! predecessor's; a `Gap` names the next one's number. Giving the stream up cancels an attached
//! command.
//!
//! The answers of `POST /workers/register` ([`Registered`]) and `POST /workers/{id}/heartbeat`
//! ([`Heard`]) are in the envelope of [`crate::envelope`], as those of every route of the API; a
//! worker that the controller does not know is answered 404 and registers again. A controller
//! sends the id of the request it acts for in the header [`crate::REQUEST_ID_HEADER`].
//!
//! Failures on the link are an [`crate::error::ErrorBody`] with that code's HTTP status.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bunker::{Interface, NetworkProfile},
    error::ErrorBody,
    exec::{Command, ExecMode},
    ids::{BunkerId, ControllerId, ExecId, ImageId, WorkerId},
    image::{CacheStatus, RegistryAuth, RootConfig},
    time,
};

/// Version of everything in this module; a controller refuses a worker that is more than one off.
pub const PROTOCOL_VERSION: u32 = 5;

/// Value of the `Upgrade` header with which a worker asks for its link.
pub const LINK_PROTOCOL: &str = "scaibunker-link";

/// Seconds between two heartbeats.
pub const HEARTBEAT_INTERVAL_S: u64 = 10;

/// What a host offers to bunkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    pub cpu_millicores: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
    #[serde(default)]
    pub gpu_count: u64,
}

/// An image that a worker makes itself from Debian's packages and can start bunkers from at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyImage {
    pub name: String,
    pub digest: String,
    pub size_bytes: u64,
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
    #[serde(default)]
    pub config: RootConfig,
}

/// The body of `PUT /images/{id}` on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnsureImage {
    /// For logs.
    pub name: String,
    pub from: ImageFrom,
    /// Of bunkers that say nothing else: the worker keeps a template of that shape.
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
}

/// Where a worker gets an image's root file system from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum ImageFrom {
    /// The worker bakes it, and stores it below `images/{id}/` at the storage proxy for the others.
    Source {
        source: BakeSource,
        /// Largest root file system, in MiB.
        size_mib: u32,
    },
    /// Another worker has baked and stored it.
    Stored { baked: BakedRoot },
}

/// What a root file system is baked from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BakeSource {
    Oci {
        reference: String,
        auth: Option<RegistryAuth>,
    },
    /// A file below the worker's import directory.
    TarPath {
        path: String,
    },
    /// An object of the storage proxy.
    TarKey {
        key: String,
    },
}

/// A root file system in the storage proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BakedRoot {
    /// `images/{id}/{hexadecimal digest}.ext4.zst`: the file system, compressed with zstd.
    pub key: String,
    /// `sha256:…` of the file system itself.
    pub digest: String,
    /// Bytes of the file system itself.
    pub size_bytes: u64,
    /// `sha256:…` of the manifest it was baked from.
    pub manifest_digest: Option<String>,
    pub config: RootConfig,
}

/// What a worker has of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageReport {
    pub image_id: ImageId,
    pub status: CacheStatus,
    /// Percent of the step that `status` names.
    pub progress: u8,
    /// Why it failed. A `pending` one with an error was evicted to make room, and is fetched again
    /// when it is asked for.
    pub error: Option<ImageFault>,
    /// `sha256:…` of the root file system, while it is here.
    #[serde(default)]
    pub digest: Option<String>,
    /// Bytes of the root file system on this worker's disk.
    pub size_bytes: Option<u64>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub updated_at: Timestamp,
    /// What was baked here, once it is stored. It may be `ready` here before that.
    pub baked: Option<BakedRoot>,
}

/// Why a worker could not get an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageFault {
    pub cause: ImageFaultCause,
    /// For people: the cause in words, what happened, and the next step.
    pub message: String,
}

/// What went wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFaultCause {
    /// The registry does not accept the credentials, or wants some.
    RegistryAuth,
    /// The registry does not answer, or broke off again and again.
    RegistryUnreachable,
    /// The registry, the import directory or the storage proxy has no such image.
    NotFound,
    /// What came is not what the digest says.
    DigestMismatch,
    /// A layer or an archive is damaged, or not what it says it is.
    Corrupt,
    /// It does not fit into `size_mib`.
    SizeCap,
    /// It is beyond the bounds of what is unpacked: entries, layers, ratio of compression.
    Refused,
    /// The worker's disk is full.
    NoSpace,
    /// It is larger than what the worker keeps of images.
    OverBudget,
    OutOfMemory,
    /// The storage proxy failed.
    Storage,
    /// Evicted to make room.
    Evicted,
    /// A fault of the worker itself.
    Internal,
}

impl ImageFaultCause {
    /// Whether every other worker would fail as well.
    #[must_use]
    pub fn is_of_the_source(self) -> bool {
        match self {
            Self::RegistryAuth
            | Self::NotFound
            | Self::DigestMismatch
            | Self::Corrupt
            | Self::SizeCap
            | Self::Refused => true,
            Self::RegistryUnreachable
            | Self::NoSpace
            | Self::OverBudget
            | Self::OutOfMemory
            | Self::Storage
            | Self::Evicted
            | Self::Internal => false,
        }
    }
}

/// The body of `POST /workers/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegisterWorker {
    /// The id of an earlier registration, which the worker keeps on its disk.
    pub worker_id: Option<WorkerId>,
    pub name: String,
    pub version: String,
    pub protocol_version: u32,
    /// Such as `qemu 7.2.22 (tcg)`.
    pub engine: String,
    /// What another worker with this engine must have in common with it to go on with a bunker's memory.
    #[serde(default)]
    pub cpu_class: String,
    pub capacity: Capacity,
    /// What kind its GPUs are of; a worker offers one kind.
    #[serde(default)]
    pub gpu_type: Option<String>,
    pub images: Vec<ReadyImage>,
    #[serde(default)]
    pub image_cache: Vec<ImageReport>,
    /// What bunkers may have there.
    #[serde(default = "isolated_only")]
    pub network_profiles: Vec<NetworkProfile>,
}

/// What a worker of a version before networks offers.
fn isolated_only() -> Vec<NetworkProfile> {
    vec![NetworkProfile::Isolated]
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registered {
    pub worker_id: WorkerId,
    /// The controller that answered; another one after each of its starts.
    #[serde(default)]
    pub controller_id: Option<ControllerId>,
    /// Those that live; empty of one that is alone.
    #[serde(default)]
    pub controllers: Vec<ControllerAddress>,
}

/// A controller, which a worker is to be linked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ControllerAddress {
    pub id: ControllerId,
    /// Such as `https://controller-1.example:8420`.
    pub url: String,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heard {
    /// Those that live; empty of one that is alone.
    #[serde(default)]
    pub controllers: Vec<ControllerAddress>,
}

/// The body of `POST /workers/{id}/heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    pub images: Vec<ReadyImage>,
    /// A worker sends a heartbeat at once, though no more than one a second, when this changes.
    #[serde(default)]
    pub image_cache: Vec<ImageReport>,
    pub bunkers: Vec<BunkerReport>,
}

/// What a worker knows of one bunker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BunkerReport {
    pub id: BunkerId,
    pub state: WorkerBunkerState,
    pub started_at: Option<Timestamp>,
    /// When it last worked: a command or shell ran, a file call was made, or its CPUs were busy.
    #[serde(default)]
    pub last_active_at: Option<Timestamp>,
    /// Its address in its own network, if its worker gives it one.
    #[serde(default)]
    pub ip_address: Option<IpAddr>,
}

/// The states a worker distinguishes. `Ended` stays listed until the controller deletes it, so
/// that a reason is never lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkerBunkerState {
    Starting,
    Running,
    Paused,
    Ended { reason: String },
}

/// The body of `PUT /bunkers/{id}` on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartBunker {
    /// `sha256:…` of the root file system.
    pub image: String,
    pub cpu_millicores: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    /// Whole devices, which no other bunker has.
    #[serde(default)]
    pub gpu_count: u32,
    pub env_vars: BTreeMap<String, String>,
    #[serde(default)]
    pub network: StartNetwork,
}

/// The body of `POST /bunkers/{id}/pause` on the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PauseBunker {
    /// Refuse it (`BUNKER_BUSY`) if the bunker has worked since.
    #[serde(default)]
    pub idle_since: Option<Timestamp>,
}

/// The body of `POST /bunkers/{id}/fork` on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkBunker {
    pub children: Vec<BunkerId>,
    /// What the parent was started with, and with that each child.
    pub start: StartBunker,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkedBunker {
    /// How long the parent stood still, in microseconds.
    pub stood_still_us: u64,
    /// In the order in which they were asked for; one that could not be made has ended.
    pub children: Vec<BunkerReport>,
}

/// What a bunker may reach. Fixed for its life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartNetwork {
    pub profile: NetworkProfile,
    /// Names, with the profile `allowlisted`.
    #[serde(default)]
    pub allowlist: Vec<String>,
    /// With the profile `transit`, in the order in which the bunker has them.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// What it may send, in Mbit/s.
    pub bandwidth_mbit: Option<u32>,
    /// Whether what it reaches, and tries to, is written down.
    #[serde(default)]
    pub egress_audit: bool,
}

/// The body of `PUT /bridges/{name}` on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MakeBridge {
    /// Bytes of the largest packet.
    pub mtu: Option<u32>,
}

/// The first frame of an exec on the link, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartExec {
    pub exec_id: ExecId,
    pub mode: ExecMode,
    /// `None`: the user's login shell.
    pub command: Option<Command>,
    pub cwd: Option<String>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    /// `None`: no time limit.
    pub timeout_s: Option<u64>,
    /// Given for a shell.
    pub terminal: Option<ResizeTerminal>,
    /// Keep the whole of an output that is longer than an answer carries, in the object store.
    pub keep_output: bool,
}

/// The body of `…/resize` on the link: a terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResizeTerminal {
    pub cols: u16,
    pub rows: u16,
}

/// The body of `…/signal` on the link: a signal's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SendSignal {
    pub signal: i32,
}

/// A `Started` frame on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecStarted {
    pub exec_id: ExecId,
    pub pid: u32,
    /// Number of the first output frame that follows.
    pub next_seq: u64,
}

/// An `Exit` frame on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecEnd {
    pub exit_code: i32,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
    pub timed_out: bool,
    pub oom_killed: bool,
    pub duration_ms: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// What was kept of an output longer than an answer carries.
    pub kept: KeptOutput,
}

/// Names of the objects `output/{bunker_id}/{name}` that hold whole outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptOutput {
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    /// Why one is missing or not whole.
    pub error: Option<String>,
}

/// What a worker knows of one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecReport {
    pub exec_id: ExecId,
    pub mode: ExecMode,
    pub command: Option<Command>,
    pub pid: Option<u32>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub first_seq: u64,
    pub next_seq: u64,
    pub state: ExecState,
}

/// The states of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ExecState {
    Running,
    Exited { end: ExecEnd },
    Failed { error: ErrorBody },
}

/// The body of `POST /bunkers/{id}/files/commit` on the link; where it goes is in the header of the
/// guest's `PUT /files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommitFile {
    /// Key of the object at the storage proxy, such as `files/{bunker_id}/{name}`.
    pub key: String,
}

/// Whether a worker can be given bunkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    Online,
    /// Its heartbeats stopped.
    Offline,
    /// It takes no new bunkers and still has some.
    Draining,
    /// It takes no new bunkers and has none: it can be stopped.
    Drained,
}

/// A worker's record, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    pub id: WorkerId,
    pub name: String,
    pub status: WorkerStatus,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub last_heartbeat: Option<Timestamp>,
    pub version: String,
    pub engine: String,
    /// With the engine it says between which workers a bunker's memory can move.
    #[serde(default)]
    pub cpu_class: String,
    pub capacity: Capacity,
    pub allocated: Capacity,
    #[serde(default)]
    pub gpu_type: Option<String>,
    /// Those that have not ended.
    pub bunkers: u64,
    /// Since when it takes no new ones.
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub drained_at: Option<Timestamp>,
    pub images: Vec<ReadyImage>,
    #[serde(default)]
    pub image_cache: Vec<ImageReport>,
    /// What bunkers may have there.
    #[serde(default = "isolated_only")]
    pub network_profiles: Vec<NetworkProfile>,
}

//! Engines make microVMs. Nothing outside this module knows a VMM's name.

pub mod memory;
pub mod qemu;

use std::{fs::File, io, os::fd::OwnedFd, sync::Arc, time::Instant};

use async_trait::async_trait;
use tokio::net::UnixStream;

use crate::{
    assets::BakedImage,
    jail::{JailError, JailedProcess},
    scratch::ScratchDisk,
    seat::Seat,
    vm_home::VmHome,
};

/// What microVMs must share to be clones of one template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// `sha256:…` of the root file system.
    pub image: String,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub nics: Nics,
    pub disk: DiskStart,
}

/// What a clone's writable disk starts as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DiskStart {
    /// Empty, and mounted in the template already.
    #[default]
    Fresh,
    /// Written before it is mounted, which the clone does.
    Restored,
}

/// Network devices, and where they lead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Nics {
    #[default]
    None,
    /// One, to the egress gateway.
    Gateway,
    /// So many, each to a bridge of the host.
    Bridges(u32),
}

impl Nics {
    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Gateway => 1,
            Self::Bridges(count) => count,
        }
    }
}

impl Shape {
    /// What a create without sizes asks for.
    #[must_use]
    pub fn default_of(image: &BakedImage) -> Self {
        Self {
            image: image.digest.clone(),
            vcpus: image.config.default_cpu_millicores.div_ceil(1000),
            memory_mb: image.config.default_memory_mb,
            disk_mb: image.config.default_disk_mb,
            nics: Nics::None,
            disk: DiskStart::Fresh,
        }
    }
}

/// A stopped microVM that clones continue from: one that was booted for that, or a bunker at one moment.
#[derive(Debug)]
pub struct Template {
    pub shape: Shape,
    pub image: BakedImage,
    pub saved: SavedVm,
    /// The writable disk as it was when the VM stopped; clones start from copies.
    pub scratch: File,
}

/// What is kept of a stopped microVM.
///
/// The memory is sealed against writing, so a clone that breaks out of its VMM still cannot
/// change what its siblings start from.
#[derive(Debug)]
pub struct SavedVm {
    /// Guest memory, a sealed memory file that clones map privately.
    pub memory: OwnedFd,
    /// Device state, as the engine wrote it.
    pub state: File,
}

/// What [`MicroVm::capture`] copied.
#[derive(Debug)]
pub struct Capture {
    pub saved: SavedVm,
    /// Since when the guest stands still.
    pub stopped_at: Instant,
}

/// The engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error("cannot {what}")]
    Io { what: &'static str, source: io::Error },
    #[error("the VMM refused `{command}`: {message}")]
    Refused { command: &'static str, message: String },
    #[error("the VMM broke its control protocol: {0}")]
    Protocol(String),
    #[error("no answer within {limit_s} s while waiting to {what}{hint}")]
    Timeout { what: &'static str, limit_s: u64, hint: String },
    #[error("the VMM ended: {reason}; it said: {stderr}")]
    Ended { reason: String, stderr: String },
}

/// Makes microVMs.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Such as `qemu 7.2.22 (tcg)`.
    fn describe(&self) -> String;

    /// What another host must have in common with this one for a guest to go on there.
    fn cpu_class(&self) -> String;

    /// Starts a VMM and lets it boot; its agent answers after a second or more.
    async fn boot(
        &self,
        shape: &Shape,
        image: &BakedImage,
        seat: &mut Seat,
        scratch: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError>;

    /// Starts a VMM for a clone, without restoring it yet.
    async fn spawn_clone(
        &self,
        template: &Arc<Template>,
        seat: &mut Seat,
        scratch: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError>;

    /// Takes over a VMM that an earlier server started, and the control of it. A VMM that does
    /// not answer is ended.
    async fn adopt(
        &self,
        home: &VmHome,
        process: JailedProcess,
    ) -> Result<Box<dyn MicroVm>, EngineError>;
}

/// One VMM and the microVM in it. Dropping it kills both.
#[async_trait]
pub trait MicroVm: Send + Sync {
    /// Loads the template's state; the guest stands still afterwards.
    async fn restore(&mut self, template: &Template) -> Result<(), EngineError>;
    /// Lets the guest run; one that runs already is fine.
    async fn resume(&mut self) -> Result<(), EngineError>;
    /// Stops the guest; one that stands still already is fine.
    async fn pause(&mut self) -> Result<(), EngineError>;
    /// Begins to copy the writable disk as it is at this moment into `target`, which is as long as the disk
    /// and empty; from here on the guest may go on writing. One that stands still is copied as well.
    async fn begin_disk_copy(&mut self, target: &File) -> Result<(), EngineError>;
    /// Waits until the copy is whole.
    async fn finish_disk_copy(&mut self) -> Result<(), EngineError>;
    /// Stops the guest of a clone, for ever if nobody resumes or pauses it, and copies its memory and
    /// device state.
    async fn capture(&mut self) -> Result<Capture, EngineError>;
    /// Stops a booted guest, keeps its memory and device state, and ends the VMM.
    async fn save(self: Box<Self>) -> Result<SavedVm, EngineError>;
    /// Gives up the control connection and keeps the process.
    fn into_process(self: Box<Self>) -> JailedProcess;
    /// A copy of the tap that its first network device ends in, if it has one.
    fn tap(&self) -> io::Result<OwnedFd>;
    /// The process, for its pid and its end.
    fn process(&self) -> &JailedProcess;
}

/// Connects to the guest agent's port.
pub async fn channel(home: &VmHome) -> io::Result<UnixStream> {
    home.connect(AGENT_SOCKET).await
}

/// File name of the agent's socket in a VM's directory.
pub const AGENT_SOCKET: &str = "agent.sock";

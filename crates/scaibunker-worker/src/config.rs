//! What a worker needs to know before it starts.

use std::path::PathBuf;

/// Settings of one worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Name operators see; normally the host's.
    pub name: String,
    /// Everything that belongs to this worker and its bunkers.
    pub data_dir: PathBuf,
    /// Kernels and baked images, shared by every server of the user and safe to delete.
    pub cache_dir: PathBuf,
    /// The statically linked guest agent.
    pub guest_agent: PathBuf,
    /// The QEMU program.
    pub qemu: PathBuf,
    pub accelerator: AcceleratorChoice,
    /// Base URL of the controller, such as `http://127.0.0.1:8420`.
    pub controller_url: String,
    /// The secret that workers and controllers share.
    pub worker_token: String,
    /// Built-in images to offer, by name.
    pub images: Vec<String>,
    /// Ready microVMs kept for each shape in use.
    pub pool_size: usize,
    /// VMM processes kept started but empty, for each shape in use.
    pub dormant_size: usize,
    /// Leave bunkers running when the server stops, for the next one to adopt.
    pub keep_bunkers: bool,
}

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// kvm where a template really boots with it, else tcg.
    Probe,
    Kvm,
    Tcg,
}

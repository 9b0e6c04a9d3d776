//! What a worker needs to know before it starts.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::{images::ImageSettings, network, oci::RegistrySettings};

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
    /// Base URLs of controllers, such as `http://127.0.0.1:8420`: one or more of those there are, or
    /// of a load balancer in front of them.
    pub controller_urls: Vec<String>,
    /// Base URL of the storage proxy, where it is not the controller's.
    pub storage_url: Option<String>,
    /// The secret that workers and controllers share.
    pub worker_token: String,
    /// Archives that an image may be made of lie below it.
    pub import_dir: PathBuf,
    /// MiB that images which are not built in may take; half of the disk when absent.
    pub image_cache_mb: Option<u64>,
    pub registries: RegistrySettings,
    /// This program, which bakes images in a process of its own.
    pub program: PathBuf,
    /// Built-in images to offer, by name.
    pub images: Vec<String>,
    /// Ready microVMs kept for each kind of bunker in use.
    pub pool_size: usize,
    pub overcommit: Overcommit,
    /// What callers ask for this worker's GPUs by; maker and model when absent.
    pub gpu_type: Option<String>,
    /// Networks that bunkers reach although they are not the public internet.
    pub egress_allow: Vec<IpNet>,
    /// Hosts of package registries; those that this machine is set up to use when absent.
    pub registry_hosts: Option<Vec<String>>,
    /// Leave bunkers running when the server stops, for the next one to adopt.
    pub keep_bunkers: bool,
}

impl WorkerConfig {
    /// Directories of the running VMs.
    #[must_use]
    pub fn vms_dir(&self) -> PathBuf {
        self.data_dir.join("vms")
    }

    /// Formatted disks that scratch disks are copies of.
    #[must_use]
    pub fn disks_dir(&self) -> PathBuf {
        self.data_dir.join("disks")
    }

    /// The empty directory on which each jail mounts its root.
    #[must_use]
    pub fn jail_root(&self) -> PathBuf {
        self.data_dir.join("jail")
    }

    /// What its bunkers reached, until it is stored.
    #[must_use]
    pub fn audit_dir(&self) -> PathBuf {
        self.data_dir.join("egress-audit")
    }

    /// The bridges that this worker has made.
    #[must_use]
    pub fn bridges_file(&self) -> PathBuf {
        self.data_dir.join("bridges.json")
    }

    /// What bunkers with the network profile `registry` reach.
    #[must_use]
    pub fn registry_hosts(&self) -> Vec<String> {
        self.registry_hosts.clone().unwrap_or_else(|| {
            let home = std::env::var_os("HOME").map(PathBuf::from);
            network::registry_hosts(Path::new("/"), home.as_deref())
        })
    }

    /// The settings of its images.
    #[must_use]
    pub fn image_settings(&self) -> ImageSettings {
        let disk_mb = rustix::fs::statvfs(&self.data_dir)
            .map_or(0, |found| found.f_blocks.saturating_mul(found.f_frsize) >> 20);
        ImageSettings {
            cache_dir: self.data_dir.join("images"),
            import_dir: self.import_dir.clone(),
            budget_bytes: self.image_cache_mb.unwrap_or(disk_mb / 2).saturating_mul(1 << 20),
            registries: self.registries.clone(),
            program: self.program.clone(),
        }
    }

    /// Finds a program as a shell would.
    #[must_use]
    pub fn find_program(name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_executable(file))
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// How many times over the host's resources are promised. A bunker rarely uses all of what it
/// may: an idle one of 256 MiB holds some 20 MiB. What is really used stays bounded by the host:
/// all VMs together live in one cgroup that leaves the server its share of memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overcommit {
    pub cpu: f64,
    pub memory: f64,
    pub disk: f64,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu: 64.0, memory: 2.0, disk: 4.0 }
    }
}

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// kvm where a template really boots with it, else tcg.
    Probe,
    Kvm,
    Tcg,
}

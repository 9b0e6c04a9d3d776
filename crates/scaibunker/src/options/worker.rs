//! Options of a worker.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use scaibunker_api::host_name::HostName;
use scaibunker_worker::{
    config::{AcceleratorChoice, Overcommit, WorkerConfig},
    oci::RegistrySettings,
};

use crate::paths;

const QEMU: &str = "qemu-system-x86_64";

/// Options of the worker.
#[derive(Debug, Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerArgs {
    /// Name of this worker for operators [default: the host's]
    #[arg(long, env = "SCAIBUNKER_WORKER_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Directory for kernels and baked images [default: $XDG_CACHE_HOME/scaibunker]
    #[arg(long, env = "SCAIBUNKER_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The static guest agent [default: scaibunker-agent beside this program]
    #[arg(long, env = "SCAIBUNKER_GUEST_AGENT", value_name = "FILE")]
    guest_agent: Option<PathBuf>,
    /// The QEMU program [default: qemu-system-x86_64 from PATH]
    #[arg(long, env = "SCAIBUNKER_QEMU", value_name = "FILE")]
    qemu: Option<PathBuf>,
    /// How guest code runs; `probe` boots a microVM with kvm once to see whether it works
    #[arg(long, env = "SCAIBUNKER_ACCELERATOR", value_enum, default_value_t = AcceleratorArg::Probe)]
    accelerator: AcceleratorArg,
    /// Directory of archives that images may be made of [default: import in the data directory]
    #[arg(long, env = "SCAIBUNKER_IMPORT_DIR", value_name = "DIR")]
    import_dir: Option<PathBuf>,
    /// Disk for images that are not built in; the least recently used go first [default: half of
    /// the disk]
    #[arg(long, env = "SCAIBUNKER_IMAGE_CACHE_MB", value_name = "MIB")]
    image_cache_mb: Option<u64>,
    /// Registry (host or host:port) that is spoken to without TLS; may be given more than once
    #[arg(
        long = "insecure-registry",
        env = "SCAIBUNKER_INSECURE_REGISTRIES",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    insecure_registries: Vec<String>,
    /// Certificates in PEM that registries are believed with, beside the machine's own
    #[arg(long, env = "SCAIBUNKER_REGISTRY_CA", value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    /// Refuse images of registries on this machine, where tenants do not trust each other
    #[arg(long, env = "SCAIBUNKER_NO_LOOPBACK_REGISTRIES")]
    no_loopback_registries: bool,
    /// Built-in image to offer; may be given more than once
    #[arg(long = "image", env = "SCAIBUNKER_IMAGES", value_delimiter = ',',
          default_values_t = ["busybox".to_owned(), "debian-12".to_owned()])]
    images: Vec<String>,
    /// Ready microVMs to keep for each shape of bunker in use, each some 40 MiB of memory
    #[arg(long, env = "SCAIBUNKER_POOL_SIZE", value_name = "N", default_value_t = 8)]
    pool_size: usize,
    /// CPU to promise, as a multiple of the machine's cores
    #[arg(long, env = "SCAIBUNKER_CPU_OVERCOMMIT", value_name = "X", default_value_t = Overcommit::default().cpu)]
    cpu_overcommit: f64,
    /// Memory to promise, as a multiple of the machine's
    #[arg(long, env = "SCAIBUNKER_MEMORY_OVERCOMMIT", value_name = "X", default_value_t = Overcommit::default().memory)]
    memory_overcommit: f64,
    /// Disk to promise, as a multiple of what is free in the data directory
    #[arg(long, env = "SCAIBUNKER_DISK_OVERCOMMIT", value_name = "X", default_value_t = Overcommit::default().disk)]
    disk_overcommit: f64,
    /// What callers ask for this host's GPUs by, such as a100: those that are given to the driver
    /// vfio-pci are offered, of one model [default: maker and model, such as 10de:20b5]
    #[arg(long, env = "SCAIBUNKER_GPU_TYPE", value_name = "NAME")]
    gpu_type: Option<String>,
    /// Network that bunkers may reach although it is not the public internet, such as one with
    /// mirrors; may be given more than once
    #[arg(
        long = "egress-allow",
        env = "SCAIBUNKER_EGRESS_ALLOW",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    egress_allow: Vec<IpNet>,
    /// Host of a package registry, for the network profile `registry`; may be given more than once
    /// [default: those that apt, pip, npm and cargo on this machine are set up to use]
    #[arg(
        long = "registry-host",
        env = "SCAIBUNKER_REGISTRY_HOSTS",
        value_delimiter = ',',
        value_name = "NAME",
        value_parser = host_name
    )]
    registry_hosts: Vec<String>,
    /// Leave bunkers running when the server stops, for the next one to adopt
    #[arg(long, env = "SCAIBUNKER_KEEP_BUNKERS")]
    keep_bunkers: bool,
}

/// See [`AcceleratorChoice`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AcceleratorArg {
    Probe,
    Kvm,
    Tcg,
}

impl WorkerArgs {
    /// The worker's settings for a data directory; everything that has a default is filled in.
    pub fn config(
        &self,
        data_dir: &Path,
        controller_urls: Vec<String>,
        worker_token: String,
    ) -> anyhow::Result<WorkerConfig> {
        let cache_dir = self.cache_dir.clone().or_else(paths::default_cache_dir);
        let guest_agent = self.guest_agent.clone().map_or_else(agent_beside_program, Ok)?;
        Ok(WorkerConfig {
            name: self.name.clone().unwrap_or_else(|| {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }),
            data_dir: data_dir.join("worker"),
            cache_dir: cache_dir.context(
                "no cache directory: neither HOME nor XDG_CACHE_HOME is set; give --cache-dir",
            )?,
            guest_agent,
            // The bare name, where it is not to be found, makes for an error that says so.
            qemu: self
                .qemu
                .clone()
                .or_else(|| WorkerConfig::find_program(QEMU))
                .unwrap_or_else(|| QEMU.into()),
            accelerator: match self.accelerator {
                AcceleratorArg::Probe => AcceleratorChoice::Probe,
                AcceleratorArg::Kvm => AcceleratorChoice::Kvm,
                AcceleratorArg::Tcg => AcceleratorChoice::Tcg,
            },
            controller_urls,
            storage_url: None,
            worker_token,
            import_dir: self.import_dir.clone().unwrap_or_else(|| data_dir.join("import")),
            image_cache_mb: self.image_cache_mb,
            registries: RegistrySettings {
                insecure: self.insecure_registries.clone(),
                ca_file: self.registry_ca.clone(),
                allow_loopback: !self.no_loopback_registries,
            },
            // Also while the program is being replaced by another version.
            program: "/proc/self/exe".into(),
            images: self.images.clone(),
            pool_size: self.pool_size,
            overcommit: Overcommit {
                cpu: self.cpu_overcommit,
                memory: self.memory_overcommit,
                disk: self.disk_overcommit,
            },
            gpu_type: self.gpu_type.clone(),
            egress_allow: self.egress_allow.clone(),
            registry_hosts: (!self.registry_hosts.is_empty()).then(|| self.registry_hosts.clone()),
            keep_bunkers: self.keep_bunkers,
        })
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let name =
        HostName::parse(text).ok_or("give the name of a host, without scheme, port or path")?;
    Ok(name.into())
}

fn agent_beside_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(program.with_file_name("scaibunker-agent"))
}

//! `scaibunker up`: controller, storage proxy and one worker in this process, over the real link.

mod access;
mod state;
mod storage;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use scaibunker_controller::{Controller, ControllerConfig};
use scaibunker_worker::{
    Worker,
    config::{AcceleratorChoice, Overcommit, WorkerConfig},
    oci::RegistrySettings,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

pub use self::state::StateArgs;
use self::{access::AccessArgs, storage::StorageArgs};
use crate::{cli::GlobalArgs, exit::Failure, paths, secret, signals::Stop};

/// Where the server listens unless told otherwise.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8420);

const QEMU: &str = "qemu-system-x86_64";

/// How long bunkers and requests may take to end once the server is asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Run a whole server on this machine: controller, storage and one worker
///
/// Its secrets are made when it first starts and stay in the data directory; the environment
/// variables SCAIBUNKER_WORKER_TOKEN and SCAIBUNKER_CAPABILITY_SECRET replace them. To change the
/// second without ending what it has signed, keep the old one in SCAIBUNKER_CAPABILITY_SECRET_PREVIOUS
/// for a week.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Address to listen on
    #[arg(long, env = "SCAIBUNKER_LISTEN", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    worker: WorkerArgs,
}

/// Options of the worker.
#[derive(Debug, Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerArgs {
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
        controller_url: String,
        worker_token: String,
    ) -> anyhow::Result<WorkerConfig> {
        let cache_dir = self.cache_dir.clone().or_else(paths::default_cache_dir);
        let guest_agent = self.guest_agent.clone().map_or_else(agent_beside_program, Ok)?;
        Ok(WorkerConfig {
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
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
            controller_url,
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
            keep_bunkers: self.keep_bunkers,
        })
    }
}

fn agent_beside_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(program.with_file_name("scaibunker-agent"))
}

/// Serves until a signal asks for the end.
pub async fn run(global: &GlobalArgs, args: UpArgs) -> Result<(), Failure> {
    let data_dir = global.data_dir()?;
    secret::make_private_dir(&data_dir)?;
    let worker_token = secret::worker_token(&data_dir)?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is a server running already? choose another --listen",
            args.listen
        )
    })?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let url = format!("http://{address}");

    let config = ControllerConfig::new(data_dir.clone(), worker_token.clone());
    let config = args.access.apply(args.state.apply(args.storage.apply(config)?)?)?;
    let controller = Controller::open(config).await.map_err(anyhow::Error::from)?;
    let stop_serving = CancellationToken::new();
    let mut serving = tokio::spawn(controller.serve(listener, stop_serving.clone()));

    let worker = args.worker.config(&data_dir, loopback_url(address), worker_token)?;
    let output = global.output();
    let progress = move |text: &str| output.note(text);
    let stop = Stop::listen().context("cannot listen for signals")?;
    let worker = tokio::select! {
        started = Worker::start(worker, &progress) => started.map_err(anyhow::Error::from)?,
        signal = stop.requested() => return Err(Failure::Stopped(signal)),
        ended = &mut serving => return Err(ended_early(ended).into()),
    };
    tokio::select! {
        () = worker.linked() => output.note(&format!("ready at {url}")),
        _ = stop.requested() => {}
        ended = &mut serving => return Err(ended_early(ended).into()),
    }
    let mut failure = None;
    tokio::select! {
        _ = stop.requested() => tracing::info!("asked to stop"),
        ended = &mut serving => failure = Some(ended_early(ended)),
    }
    // The worker first, so that the controller still hears how its bunkers ended.
    if timeout(STOP_LIMIT, worker.stop()).await.is_err() {
        tracing::warn!("bunkers did not end in time; the next start frees what is left of them");
    }
    stop_serving.cancel();
    match failure {
        Some(failure) => Err(failure.into()),
        None => Ok(served(timeout(STOP_LIMIT, serving).await.context("requests did not end")?)?),
    }
}

type Served = Result<Result<(), scaibunker_controller::ControllerError>, tokio::task::JoinError>;

fn served(ended: Served) -> anyhow::Result<()> {
    Ok(ended.context("the controller crashed")??)
}

fn ended_early(ended: Served) -> anyhow::Error {
    served(ended).err().unwrap_or_else(|| anyhow::anyhow!("the controller stopped by itself"))
}

/// Where the worker of this process reaches the controller: a wildcard address is not one to dial.
fn loopback_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        });
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_dials_loopback_when_every_address_is_served() {
        assert_eq!(loopback_url("0.0.0.0:1".parse().unwrap()), "http://127.0.0.1:1");
        assert_eq!(loopback_url("[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(loopback_url("10.0.0.1:1".parse().unwrap()), "http://10.0.0.1:1");
    }
}

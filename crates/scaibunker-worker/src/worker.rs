//! A worker from start to end: assets, engine, pool, supervisor, link.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustix::fs::{FlockOperation, fcntl_lock};
use scaibunker_api::{
    bunker::NetworkProfile,
    ids::WorkerId,
    worker::{Capacity, PROTOCOL_VERSION, RegisterWorker},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    assets::{self, AssetError, BakedImage, Kernel, Progress},
    config::{AcceleratorChoice, Overcommit, WorkerConfig},
    engine::{
        Engine, EngineError, Shape,
        qemu::{self, Accelerator, Qemu},
    },
    gpus::Gpus,
    images::{ImageEvent, Images},
    jail::CgroupRoot,
    link::{Identity, LinkError, Links, ready_image},
    network::{self, AuditLogs, GatewaySettings, Networks},
    oci::OciError,
    pool::Pool,
    scratch::{ScratchDisks, ScratchError},
    seat::{Seat, SeatError, UidSlots},
    snapshots::Snapshots,
    storage::{StorageClient, StorageError},
    supervisor::Supervisor,
    vm::{Host, VmError},
};

const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// Memory that bunkers leave to the host and the server, in MiB.
const HOST_RESERVE_MB: u64 = 512;

/// The worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("another server uses {0}; stop it, or choose another data directory")]
    InUse(PathBuf),
    #[error(transparent)]
    Asset(#[from] AssetError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Seat(#[from] SeatError),
    #[error("cannot make a first microVM")]
    Vm(#[from] VmError),
    #[error("cannot prepare the images")]
    Images(#[from] OciError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("no controller to link with: give its URL")]
    NoController,
    #[error("no image to offer: name at least one")]
    NoImage,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkerError {
    let path = path.to_path_buf();
    move |source| WorkerError::Io { what, path, source }
}

/// A running worker. Its bunkers end, or are left, in [`Worker::stop`].
pub struct Worker {
    supervisor: Arc<Supervisor>,
    images: Images,
    /// Ends bunkers, the pool and work on images.
    bunkers: CancellationToken,
    /// Ends what bunkers need until their end.
    bunkers_ended: CancellationToken,
    /// Ends the link, after the bunkers so that their ends can still be told.
    link: CancellationToken,
    refill: JoinHandle<()>,
    follow: JoinHandle<()>,
    network_tasks: JoinSet<()>,
    linked: JoinHandle<()>,
    up: watch::Receiver<usize>,
    _lock: File,
}

impl Worker {
    /// Prepares everything, adopts what an earlier server left, and links to the controller in
    /// the background. Returns once bunkers can be made.
    pub async fn start(config: WorkerConfig, progress: &Progress) -> Result<Self, WorkerError> {
        let lock = lay_out(&config)?;
        let began = Instant::now();
        let kernel = assets::kernel(&config.cache_dir, &config.guest_agent, progress).await?;
        let built_in = bake(&config, progress).await?;
        let first_controller = config.controller_urls.first().ok_or(WorkerError::NoController)?;
        let storage_url = config.storage_url.as_ref().unwrap_or(first_controller);
        let storage = Arc::new(StorageClient::new(storage_url, &config.worker_token)?);

        let gpus = Arc::new(Gpus::find(Path::new("/sys"), config.gpu_type.as_deref()));
        let capacity = Capacity { gpu_count: gpus.count(), ..capacity(&config) };
        let cgroups = cgroups();
        let (bunkers, link) = (CancellationToken::new(), CancellationToken::new());
        let bunkers_ended = CancellationToken::new();
        let uid_slots = Arc::new(UidSlots::default());
        let disks = ScratchDisks::new(config.disks_dir())?;
        let cgroup_root = cgroups.as_ref();
        let engine = engine(&config, kernel, &built_in, &uid_slots, cgroup_root, &disks).await?;
        let (engine_text, cpu_class) = (engine.describe(), engine.cpu_class());
        let dir = config.audit_dir();
        let audit =
            AuditLogs::new(dir.clone(), Arc::clone(&storage)).map_err(failed("make", &dir))?;
        let networks = networks(&config, &audit).await.map(Arc::new);
        let host = Arc::new(Host {
            engine: Arc::new(engine),
            disks,
            vms_dir: config.vms_dir(),
            cgroups,
            uid_slots,
            gpus: Arc::clone(&gpus),
            networks: networks.clone(),
        });
        let shapes: Vec<Shape> = built_in.iter().map(Shape::default_of).collect();
        let ready = built_in.iter().map(ready_image).collect();
        let settings = config.image_settings();
        let cgroup_root = host.cgroups.clone();
        let opened =
            Images::open(settings, built_in, Arc::clone(&storage), cgroup_root, bunkers.clone());
        let (images, image_events) = opened?;
        images.clear_work().await?;
        let introduction = RegisterWorker {
            worker_id: None,
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_version: PROTOCOL_VERSION,
            engine: engine_text,
            cpu_class,
            capacity,
            gpu_type: gpus.kind().map(str::to_owned),
            images: ready,
            image_cache: Vec::new(),
            network_profiles: match networks {
                Some(_) => Networks::OFFERED.to_vec(),
                None => vec![NetworkProfile::Isolated],
            },
        };

        let pool = Pool::new(host, images.clone(), config.pool_size);
        let supervisor = Supervisor::new(Arc::clone(&pool), bunkers.clone(), config.keep_bunkers);
        supervisor.recover().await.map_err(failed("read", &config.vms_dir()))?;
        supervisor.follow_activity();
        progress("starting the first microVMs");
        pool.warm(&shapes).await?;
        let mut network_tasks = JoinSet::new();
        network_tasks.spawn(audit.run(bunkers_ended.clone()));
        let refill = tokio::spawn(Arc::clone(&pool).refill(bunkers.clone()));
        let follow = tokio::spawn(follow_images(pool, image_events, bunkers.clone()));
        let data_dir = config.data_dir.clone();
        let identity = Identity {
            supervisor: Arc::clone(&supervisor),
            snapshots: Snapshots::new(Arc::clone(&storage), config.vms_dir()),
            storage,
            images: images.clone(),
            introduction,
            id: tokio::sync::Mutex::new(read_id(&config)),
            remember: Box::new(move |id| remember_id(&data_dir, id)),
        };
        let links = Links::new(&config.controller_urls, &config.worker_token, identity)?;
        let (up, told) = (links.up(), links.controllers());
        if let Some(networks) = networks {
            let seeds = config.controller_urls.iter().chain(&config.storage_url).cloned().collect();
            let gateway = Arc::clone(&networks.gateway);
            let follow = network::follow_controllers(Arc::clone(&gateway), seeds, told);
            let ended = bunkers_ended.clone();
            network_tasks.spawn(async move {
                ended.run_until_cancelled(follow).await;
            });
            network_tasks.spawn(gateway.run(bunkers_ended.clone()));
        }
        let linked = tokio::spawn(links.run(link.clone()));
        tracing::info!(duration_ms = began.elapsed().as_millis() as u64, "worker ready");
        Ok(Self {
            supervisor,
            images,
            bunkers,
            bunkers_ended,
            link,
            refill,
            follow,
            network_tasks,
            linked,
            up,
            _lock: lock,
        })
    }

    /// Returns once a controller has linked up with this worker.
    pub async fn linked(&self) {
        // The sender lives as long as the link's task.
        let _ = self.up.clone().wait_for(|up| *up > 0).await;
    }

    /// Ends the bunkers or leaves them, as configured, and says good-bye to the controller.
    pub async fn stop(mut self) {
        self.bunkers.cancel();
        self.supervisor.finish().await;
        // Both end by themselves once cancelled; a panic in them has been reported already.
        let _ = self.refill.await;
        let _ = self.follow.await;
        self.bunkers_ended.cancel();
        while self.network_tasks.join_next().await.is_some() {}
        self.images.finish().await;
        self.link.cancel();
        let _ = self.linked.await;
    }
}

/// Makes the directories and takes the lock that keeps a second server out of them.
fn lay_out(config: &WorkerConfig) -> Result<File, WorkerError> {
    let dirs = [&config.data_dir, &config.vms_dir(), &config.jail_root(), &config.cache_dir];
    for dir in dirs {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("make", dir))?;
    }
    let path = config.data_dir.join("lock");
    let lock = File::create(&path).map_err(failed("open", &path))?;
    // Of the process, not of the open file: a child that was just forked when the server was killed
    // would hold that one on.
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| WorkerError::InUse(config.data_dir.clone()))?;
    Ok(lock)
}

/// `None`, with the reason in the log, where bunkers can have no networks.
async fn networks(config: &WorkerConfig, audit: &Arc<AuditLogs>) -> Option<Networks> {
    let settings = GatewaySettings {
        program: config.program.clone(),
        root: config.jail_root(),
        exempt: config.egress_allow.clone(),
    };
    let networks =
        Networks::new(settings, Arc::clone(audit), config.bridges_file(), config.registry_hosts())
            .await;
    networks
        .inspect_err(|error| {
            let error = crate::chain(error);
            tracing::warn!(error, "bunkers have no networks here: only `isolated` is offered");
        })
        .ok()
}

async fn bake(config: &WorkerConfig, progress: &Progress) -> Result<Vec<BakedImage>, WorkerError> {
    let mut images = Vec::new();
    for name in &config.images {
        images.push(assets::image(&config.cache_dir, name, progress).await?);
    }
    if images.is_empty() { Err(WorkerError::NoImage) } else { Ok(images) }
}

async fn engine(
    config: &WorkerConfig,
    kernel: Kernel,
    images: &[BakedImage],
    uid_slots: &Arc<UidSlots>,
    cgroups: Option<&CgroupRoot>,
    disks: &ScratchDisks,
) -> Result<Qemu, WorkerError> {
    let accelerator = match config.accelerator {
        AcceleratorChoice::Kvm => Accelerator::Kvm,
        AcceleratorChoice::Tcg | AcceleratorChoice::Probe => Accelerator::Tcg,
    };
    let engine = Qemu {
        program: config.qemu.clone(),
        version: qemu::version(&config.qemu).await?,
        accelerator,
        kernel,
        jail_root: config.jail_root(),
    };
    if config.accelerator != AcceleratorChoice::Probe {
        return Ok(engine);
    }
    let image = images.first().ok_or(WorkerError::NoImage)?;
    let mut seat = Seat::take(&config.vms_dir(), cgroups, uid_slots)?;
    let disk_mb = qemu::probe_shape(image).disk_mb;
    let scratch = disks.create(&seat.home.scratch_path(), disk_mb).await?;
    Ok(engine.probed(&config.data_dir, image, &mut seat, scratch).await?)
}

/// Boots the templates of images that arrive, one after the other, and lets go of those that went.
async fn follow_images(
    pool: Arc<Pool>,
    mut events: mpsc::UnboundedReceiver<ImageEvent>,
    shutdown: CancellationToken,
) {
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.recv()).await {
        match event {
            ImageEvent::Gone(digest) => pool.forget(&digest),
            ImageEvent::Ready(image) => {
                // The first bunker tries again, and its caller is told.
                if let Err(error) = pool.prepare(&image).await {
                    let error = crate::chain(&error);
                    tracing::warn!(image = image.name, error, "an image's template does not boot");
                }
            }
        }
    }
}

/// The group that bounds all VMs together, or the reason why there is none in the log.
fn cgroups() -> Option<CgroupRoot> {
    let root = CgroupRoot::detect(Path::new(CGROUP_MOUNT));
    let Some(root) = root else {
        tracing::warn!(
            "no cgroup that this user may write: a bunker's CPU share and memory are bounded by \
             its VM only; run the server as root for hard limits"
        );
        return None;
    };
    let bound_mb = total_memory_mb().saturating_sub(HOST_RESERVE_MB);
    if let Err(error) = root.limit_memory(bound_mb << 20) {
        tracing::warn!(%error, "cannot bound the memory of all bunkers together");
    }
    Some(root)
}

fn total_memory_mb() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) >> 20
}

/// What the host offers, times what is promised over it.
fn capacity(config: &WorkerConfig) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let free_mb = rustix::fs::statvfs(&config.data_dir)
        .map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20);
    let memory_mb = total_memory_mb().saturating_sub(HOST_RESERVE_MB);
    promise(
        Capacity { cpu_millicores: cores * 1000, memory_mb, disk_mb: free_mb, gpu_count: 0 },
        config.overcommit,
    )
}

fn promise(host: Capacity, overcommit: Overcommit) -> Capacity {
    let times = |amount: u64, factor: f64| (amount as f64 * factor.max(0.0)) as u64;
    Capacity {
        cpu_millicores: times(host.cpu_millicores, overcommit.cpu),
        memory_mb: times(host.memory_mb, overcommit.memory),
        disk_mb: times(host.disk_mb, overcommit.disk),
        gpu_count: host.gpu_count,
    }
}

fn read_id(config: &WorkerConfig) -> Option<WorkerId> {
    fs::read_to_string(id_file(&config.data_dir)).ok()?.trim().parse().ok()
}

fn remember_id(data_dir: &Path, id: WorkerId) {
    if let Err(error) = fs::write(id_file(data_dir), format!("{id}\n")) {
        tracing::warn!(%error, "cannot remember the worker's id; the next start gets a new one");
    }
}

fn id_file(data_dir: &Path) -> PathBuf {
    data_dir.join("worker_id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_multiples_of_what_the_host_has() {
        let host = Capacity { cpu_millicores: 2_000, memory_mb: 1_000, disk_mb: 10, gpu_count: 2 };
        let promised = promise(host, Overcommit { cpu: 4.0, memory: 1.5, disk: 1.0 });
        let expected =
            Capacity { cpu_millicores: 8_000, memory_mb: 1_500, disk_mb: 10, gpu_count: 2 };
        assert_eq!(promised, expected);
    }
}

//! Everything that routes and tasks share, wired in one place.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use jiff::Timestamp;
use scaibunker_storage::{Objects, SigningSecret, WorkerToken};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit::Audit,
    bridges::Bridges,
    bunkers::{self, Bunkers},
    config::RateLimits,
    credentials::Credentials,
    exec::Execs,
    files::{Files, Transfers},
    fleet::{Fleet, Inbox},
    iam::Iam,
    images::Images,
    ledger::SharedLedger,
    limits::Limits,
    metrics::Metrics,
    quotas::Quotas,
    replicas::Replicas,
    scan::Scans,
    snapshots::{self, KeyRing, Snapshots},
    store::{Store, StoreError},
    tasks::{Reconciler, TaskBoard},
};

/// The controller's parts.
pub struct App {
    pub store: Store,
    pub fleet: Arc<Fleet>,
    /// What controllers count together.
    pub ledger: SharedLedger,
    pub credentials: Arc<Credentials>,
    pub iam: Iam,
    pub quotas: Quotas,
    pub bunkers: Arc<Bunkers>,
    pub execs: Execs,
    pub files: Files,
    pub transfers: Transfers,
    pub objects: Objects,
    pub images: Arc<Images>,
    pub bridges: Bridges,
    pub snapshots: Arc<Snapshots>,
    /// Known faults of images.
    pub scans: Scans,
    pub reconciler: Reconciler,
    /// What workers said that is not settled yet.
    pub inbox: Inbox,
    /// This controller among those that share the database.
    pub replicas: Arc<Replicas>,
    /// Who called what, with what result.
    pub audit: Audit,
    /// How often who may call.
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub worker_token: WorkerToken,
    /// Whose word about a client's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub audit_retention_days: u32,
    pub started_at: Timestamp,
    /// How the background tasks fare.
    pub task_board: TaskBoard,
    /// Where clients find this server, if the operator says so.
    pub public_url: Option<String>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Work that outlives the request which began it.
    pub tasks: TaskTracker,
    /// Cancelled when the process is asked to end: no new connections.
    pub draining: CancellationToken,
    /// Cancelled when requests had their time to end: those still there are cut short.
    pub drained: CancellationToken,
    /// Cancelled when no request is left: links and background tasks end.
    pub stopped: CancellationToken,
}

/// What the parts are built on.
pub struct Foundations {
    pub store: Store,
    pub ledger: SharedLedger,
    pub credentials: Arc<Credentials>,
    pub objects: Objects,
    pub secret: SigningSecret,
    pub worker_token: WorkerToken,
    pub stale_after: Duration,
    pub public_url: Option<String>,
    /// `http` or `https`.
    pub scheme: &'static str,
    pub advertise_url: Option<String>,
    pub rate_limits: RateLimits,
    pub trusted_proxies: Vec<IpNet>,
    pub require_egress_audit: bool,
    pub audit_retention_days: u32,
    pub snapshot_keys: KeyRing,
    pub snapshot_retention_days: u32,
    pub trivy: PathBuf,
    /// Where images are scanned.
    pub scan_dir: PathBuf,
}

impl App {
    /// Wires the parts around an open database and object store.
    pub async fn wire(foundations: Foundations) -> Result<Arc<Self>, StoreError> {
        let Foundations { store, ledger, credentials, objects, worker_token, stale_after, .. } =
            foundations;
        let live = store.live_bunkers(None).await?;
        let workers = store.workers().await?;
        let fleet = Arc::new(Fleet::restore(workers, &live, stale_after));
        let (tasks, draining) = (TaskTracker::new(), CancellationToken::new());
        let (drained, stopped) = (CancellationToken::new(), CancellationToken::new());
        let metrics = Arc::new(Metrics::new());
        let limits = Limits::new(foundations.rate_limits, ledger.clone(), Arc::clone(&metrics));
        let audit = Audit::start(store.clone(), Arc::clone(&metrics), &tasks, stopped.clone());
        let secret = foundations.secret;
        let images =
            Arc::new(Images::new(store.clone(), Arc::clone(&fleet), objects.clone(), secret));
        let scans = Scans::new(
            store.clone(),
            Arc::clone(&images),
            objects.clone(),
            foundations.trivy,
            foundations.scan_dir,
        );
        let replicas = Arc::new(Replicas::new(store.clone(), foundations.advertise_url));
        replicas.sign().await?;
        let parts = bunkers::Parts {
            images: Arc::clone(&images),
            store: store.clone(),
            fleet: Arc::clone(&fleet),
            ledger: ledger.clone(),
            credentials: Arc::clone(&credentials),
            metrics: Arc::clone(&metrics),
            replicas: Arc::clone(&replicas),
            require_egress_audit: foundations.require_egress_audit,
            snapshot_keys: foundations.snapshot_keys.clone(),
        };
        let bunkers = Bunkers::new(parts, tasks.clone(), drained.clone());
        let execs =
            Execs::new(Arc::clone(&bunkers), Arc::clone(&metrics), tasks.clone(), drained.clone());
        let files = Files::new(Arc::clone(&bunkers), draining.clone());
        let snapshots = Snapshots::new(snapshots::Parts {
            store: store.clone(),
            objects: objects.clone(),
            bunkers: Arc::clone(&bunkers),
            replicas: Arc::clone(&replicas),
            keys: foundations.snapshot_keys,
            retention_days: foundations.snapshot_retention_days,
            tasks: tasks.clone(),
        });
        let transfers = Transfers::new(Arc::clone(&bunkers), objects.clone());
        let reconciler = Reconciler::new(store.clone(), Arc::clone(&fleet), Arc::clone(&bunkers));
        Ok(Arc::new(Self {
            snapshots,
            bridges: Bridges::new(store.clone(), Arc::clone(&fleet)),
            iam: Iam::new(store.clone(), Arc::clone(&credentials)),
            quotas: Quotas::new(store.clone(), ledger.clone(), Arc::clone(&credentials)),
            credentials,
            store,
            fleet,
            ledger,
            bunkers,
            execs,
            files,
            transfers,
            objects,
            images,
            scans,
            reconciler,
            inbox: Inbox::default(),
            replicas,
            audit,
            limits,
            metrics,
            worker_token,
            trusted_proxies: foundations.trusted_proxies,
            audit_retention_days: foundations.audit_retention_days,
            started_at: Timestamp::now(),
            task_board: TaskBoard::default(),
            public_url: foundations.public_url,
            scheme: foundations.scheme,
            tasks,
            draining,
            drained,
            stopped,
        }))
    }
}

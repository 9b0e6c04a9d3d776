//! Everything that routes and tasks share, wired in one place.

use std::{sync::Arc, time::Duration};

use scaibunker_storage::{Objects, WorkerToken};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bunkers::Bunkers,
    credentials::Credentials,
    exec::Execs,
    files::{Files, Transfers},
    fleet::Fleet,
    iam::Iam,
    ledger::SharedLedger,
    quotas::Quotas,
    store::{Store, StoreError},
    tasks::Reconciler,
};

/// The controller's parts.
pub struct App {
    pub store: Store,
    pub fleet: Arc<Fleet>,
    pub ledger: SharedLedger,
    pub credentials: Arc<Credentials>,
    pub iam: Iam,
    pub quotas: Quotas,
    pub bunkers: Arc<Bunkers>,
    pub execs: Execs,
    pub files: Files,
    pub transfers: Transfers,
    pub objects: Objects,
    pub reconciler: Reconciler,
    pub worker_token: WorkerToken,
    /// Where clients find this server, if the operator says so.
    pub public_url: Option<String>,
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
    pub worker_token: WorkerToken,
    pub stale_after: Duration,
    pub public_url: Option<String>,
}

impl App {
    /// Wires the parts around an open database and object store.
    pub async fn wire(foundations: Foundations) -> Result<Arc<Self>, StoreError> {
        let Foundations {
            store,
            ledger,
            credentials,
            objects,
            worker_token,
            stale_after,
            public_url,
        } = foundations;
        let live = store.live_bunkers(None).await?;
        let (workers, images) = (store.workers().await?, store.images().await?);
        let fleet = Arc::new(Fleet::restore(workers, images, &live, stale_after));
        let (tasks, draining) = (TaskTracker::new(), CancellationToken::new());
        let drained = CancellationToken::new();
        let bunkers =
            Bunkers::new(store.clone(), Arc::clone(&fleet), tasks.clone(), drained.clone());
        let execs = Execs::new(Arc::clone(&bunkers), tasks.clone(), drained.clone());
        let files = Files::new(Arc::clone(&bunkers), draining.clone());
        let transfers = Transfers::new(Arc::clone(&bunkers), objects.clone());
        let reconciler = Reconciler::new(store.clone(), Arc::clone(&fleet), Arc::clone(&bunkers));
        let iam = Iam::new(store.clone(), Arc::clone(&credentials));
        let quotas = Quotas::new(store.clone(), Arc::clone(&ledger), Arc::clone(&credentials));
        Ok(Arc::new(Self {
            store,
            fleet,
            ledger,
            credentials,
            iam,
            quotas,
            bunkers,
            execs,
            files,
            transfers,
            objects,
            reconciler,
            worker_token,
            public_url,
            tasks,
            draining,
            drained,
            stopped: CancellationToken::new(),
        }))
    }
}

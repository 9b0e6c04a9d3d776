//! Everything that routes and tasks share, wired in one place.

use std::{sync::Arc, time::Duration};

use scaibunker_storage::WorkerToken;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bunkers::Bunkers,
    exec::Execs,
    fleet::Fleet,
    store::{Store, StoreError},
    tasks::Reconciler,
};

/// The controller's parts.
pub struct App {
    pub store: Store,
    pub fleet: Arc<Fleet>,
    pub bunkers: Arc<Bunkers>,
    pub execs: Execs,
    pub reconciler: Reconciler,
    pub worker_token: WorkerToken,
    /// Work that outlives the request which began it.
    pub tasks: TaskTracker,
    /// Cancelled when the process is asked to end: no new connections.
    pub draining: CancellationToken,
    /// Cancelled when requests had their time to end: those still there are cut short.
    pub drained: CancellationToken,
    /// Cancelled when no request is left: links and background tasks end.
    pub stopped: CancellationToken,
}

impl App {
    /// Wires the parts around an open database.
    pub async fn wire(
        store: Store,
        worker_token: WorkerToken,
        stale_after: Duration,
    ) -> Result<Arc<Self>, StoreError> {
        let live = store.live_bunkers(None).await?;
        let (workers, images) = (store.workers().await?, store.images().await?);
        let fleet = Arc::new(Fleet::restore(workers, images, &live, stale_after));
        let (tasks, drained) = (TaskTracker::new(), CancellationToken::new());
        let bunkers =
            Bunkers::new(store.clone(), Arc::clone(&fleet), tasks.clone(), drained.clone());
        let execs =
            Execs::new(store.clone(), Arc::clone(&fleet), Arc::clone(&bunkers), drained.clone());
        let reconciler = Reconciler::new(store.clone(), Arc::clone(&fleet), Arc::clone(&bunkers));
        Ok(Arc::new(Self {
            store,
            fleet,
            bunkers,
            execs,
            reconciler,
            worker_token,
            tasks,
            draining: CancellationToken::new(),
            drained,
            stopped: CancellationToken::new(),
        }))
    }
}

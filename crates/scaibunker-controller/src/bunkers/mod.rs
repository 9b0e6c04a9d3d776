//! What can be done with bunkers: the steps between the routes and the store and fleet.

mod changes;
mod create;
mod end;
mod fork;
mod key_locks;
mod pause;
mod quota;
mod reach;
mod recall;
mod starting;
mod transition;

use std::{sync::Arc, time::Duration};

use scaibunker_api::{
    bunker::PatchBunker,
    error::ErrorCode,
    ids::{BunkerId, ControllerId, ImageId},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{changes::Changes, key_locks::KeyLocks, starting::Starting};
pub use self::{
    changes::StatusStream,
    create::{CreateAnswer, start_spec},
};
use crate::{
    credentials::Credentials,
    domain::{actor::Actor, bunker::Bunker, image::ImageRecord, patch, snapshot::Machine},
    failure::Failure,
    fleet::Fleet,
    images::Images,
    ledger::SharedLedger,
    metrics::Metrics,
    replicas::Replicas,
    snapshots::KeyRing,
    store::{BunkerFilter, Store},
};

/// The service; one for the process.
pub struct Bunkers {
    store: Store,
    fleet: Arc<Fleet>,
    images: Arc<Images>,
    ledger: SharedLedger,
    credentials: Arc<Credentials>,
    metrics: Arc<Metrics>,
    replicas: Arc<Replicas>,
    require_egress_audit: bool,
    /// What bunkers that start from snapshots need to read those.
    snapshot_keys: KeyRing,
    changes: Changes,
    /// Bunkers whose start is under way in this process.
    starting: Starting,
    /// Idempotency keys whose first request is not written down yet.
    key_locks: KeyLocks,
    /// Bunkers that are being brought back.
    recalls: KeyLocks,
    /// Everything here that outlives the request which began it.
    tasks: TaskTracker,
    /// Cancelled when nobody may wait any longer.
    drained: CancellationToken,
}

/// What the service stands on.
pub struct Parts {
    pub store: Store,
    pub fleet: Arc<Fleet>,
    pub images: Arc<Images>,
    pub ledger: SharedLedger,
    pub credentials: Arc<Credentials>,
    pub metrics: Arc<Metrics>,
    pub replicas: Arc<Replicas>,
    /// Whether bunkers that may reach everything have to be audited.
    pub require_egress_audit: bool,
    pub snapshot_keys: KeyRing,
}

impl Bunkers {
    /// A service on its parts.
    #[must_use]
    pub fn new(parts: Parts, tasks: TaskTracker, drained: CancellationToken) -> Arc<Self> {
        let Parts { store, fleet, images, ledger, credentials, metrics, replicas, .. } = parts;
        Arc::new(Self {
            store,
            fleet,
            images,
            ledger,
            credentials,
            metrics,
            replicas,
            require_egress_audit: parts.require_egress_audit,
            snapshot_keys: parts.snapshot_keys,
            changes: Changes::default(),
            starting: Starting::default(),
            key_locks: KeyLocks::default(),
            recalls: KeyLocks::default(),
            tasks,
            drained,
        })
    }

    /// A bunker that the caller sees; any other does not exist.
    pub async fn get(&self, actor: &Actor, id: BunkerId) -> Result<Bunker, Failure> {
        match self.store.bunker(id).await? {
            Some(bunker) if actor.sees(&bunker) => Ok(bunker),
            _ => Err(Failure::new(ErrorCode::NotFound, format!("there is no bunker {id}"))),
        }
    }

    /// The newest `limit` bunkers that the caller sees and that pass the filter.
    pub async fn list(
        &self,
        actor: &Actor,
        filter: &BunkerFilter,
        limit: usize,
    ) -> Result<Vec<Bunker>, Failure> {
        Ok(self.store.list_bunkers(actor.scope(), filter, limit).await?)
    }

    /// Changes what the owner may change.
    pub async fn patch(
        &self,
        actor: &Actor,
        id: BunkerId,
        patch: PatchBunker,
    ) -> Result<Bunker, Failure> {
        loop {
            let bunker = self.get(actor, id).await?;
            let changed = patch::apply(&bunker, patch.clone())?;
            if self.store.update_spec(&changed).await? {
                return Ok(changed);
            }
        }
    }

    /// Ends a bunker. Answers once its worker has freed everything, or after `limit` with the
    /// bunker still on its way there; asking again is no error.
    pub async fn end(
        self: &Arc<Self>,
        actor: &Actor,
        id: BunkerId,
        limit: Duration,
    ) -> Result<Bunker, Failure> {
        let bunker = self.get(actor, id).await?;
        let (ending, released) =
            self.request_end(bunker, None, actor.request_id.to_string()).await?;
        match tokio::time::timeout(limit, released).await {
            Ok(Ok(released)) => Ok(released?),
            // The limit has passed, or the process is going down; the reconciler finishes it.
            Ok(Err(_)) | Err(_) => Ok(ending),
        }
    }

    /// `sha256:…` of the root file system below a bunker's disk.
    pub async fn image_digest(&self, id: ImageId) -> Result<String, Failure> {
        self.image_below(id).await?.image.digest.ok_or_else(|| no_image_below(id))
    }

    /// The image below a bunker's disk.
    async fn image_below(&self, id: ImageId) -> Result<ImageRecord, Failure> {
        self.store.image(id).await?.ok_or_else(|| no_image_below(id))
    }

    /// What a bunker's worker runs it on.
    pub fn machine_of(&self, bunker: &Bunker) -> Option<Machine> {
        self.fleet.machine(bunker.worker_id)
    }

    /// Whether a controller is another one than this, and lives.
    pub fn is_another_alive(&self, id: ControllerId) -> bool {
        self.replicas.is_another_alive(id)
    }

    /// Whether a start of this bunker is under way in this process.
    pub fn is_starting(&self, id: BunkerId) -> bool {
        self.starting.contains(id)
    }
}

fn no_image_below(id: ImageId) -> Failure {
    let message = format!("the image {id} below the bunker's disk is deleted");
    Failure::new(ErrorCode::ImageNotFound, message)
}

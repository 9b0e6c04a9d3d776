//! Making a bunker, step by step:
//!
//! 1. check the request, find a worker, and take quota and room there in one step (undone unless
//!    the bunker gets written down);
//! 2. write the bunker down as `pending`, with its idempotency key; the caller may be answered;
//! 3. call the worker; `provisioning` when it takes its time;
//! 4. write down `running` or `failed`. Failed, or ended meanwhile: the worker forgets it.
//!
//! From step 2 on the work belongs to a task of its own: a caller that goes away stops nothing.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use scaibunker_api::{
    bunker::{self, BunkerStatus, CreateBunker},
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, ImageId, WorkerId},
    image::Image,
    worker::{BunkerReport, EnsureImage, StartBunker, StartNetwork, WorkerBunkerState},
};
use scaibunker_snapshot::link::{RestoreSnapshot, StartFromSnapshot};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::Instrument as _;

use super::{Bunkers, quota::Reservation, starting::StartGuard, transition::Outcome};
use crate::{
    bridges::workers_with,
    domain::{
        actor::Actor,
        bunker::{Bunker, Event, Spec},
        create,
        image::ImageRecord,
        network,
        snapshot::{Machine, SnapshotRecord, check_fit},
    },
    failure::{Failure, chain},
    fleet::{Link, LinkError, Place},
    images::placement::fetched,
    snapshots::to_restore,
    store::{IdempotencyKey, Inserted, StoreError, StoredKey},
};

/// A start that takes longer is shown as `provisioning`; a quicker one needs one write less.
const QUICK_START: Duration = Duration::from_millis(200);
/// Between two looks at whether a bunker that waits for its image is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The data of the answer to a create.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CreateAnswer {
    Record(Box<bunker::Bunker>),
    /// What an earlier request with the same idempotency key was answered.
    Repeated(serde_json::Value),
}

impl CreateAnswer {
    /// The id of the bunker that was made.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Record(record) => record.id.to_string(),
            Self::Repeated(record) => record["id"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// Everything a start needs.
struct Start {
    bunker: Bunker,
    image: Image,
    /// What the worker has to be asked first, if it does not have the image.
    fetch: Option<EnsureImage>,
    /// What it starts as, if that is a snapshot.
    restore: Option<RestoreSnapshot>,
    key: Option<IdempotencyKey>,
    reservation: Reservation,
    guard: StartGuard,
    request_id: String,
}

impl Bunkers {
    /// Makes a bunker. With `wait` the answer comes once it runs or has failed, or after that
    /// long; a repeated `key` gets the first answer again.
    pub async fn create(
        self: &Arc<Self>,
        actor: &Actor,
        request: CreateBunker,
        key: Option<String>,
        wait: Option<Duration>,
    ) -> Result<CreateAnswer, Failure> {
        create::check(actor, &request)?;
        network::check_audit(&request, self.require_egress_audit)?;
        let mut key = key.map(|key| idempotency_key(actor, key, &request));
        let first = match &key {
            Some(key) => Some(self.key_locks.lock(key.user_id, &key.key).await),
            None => None,
        };
        if let Some(key) = &key
            && let Some(stored) = self.store.idempotency_key(key.user_id, &key.key).await?
        {
            drop(first);
            return self.repeat(key, stored, wait).await;
        }
        let interfaces = request.interfaces.as_deref().unwrap_or_default();
        let bridged = workers_with(&self.store, request.network_profile, interfaces).await?;
        let (request, restore) = self.resolve_snapshot(actor, request).await?;
        let image = match &restore {
            None => self.images.named(actor, &request.image).await?,
            Some((snapshot, _)) => self.image_of(actor, snapshot).await?,
        };
        let machine = restore.as_ref().and_then(|(snapshot, _)| snapshot.machine.as_ref());
        let among = self.suited(bridged, machine)?;
        let id = BunkerId::generate();
        tracing::Span::current().record("bunker_id", tracing::field::display(id));
        let spec = create::resolve(request, &image.image);
        let placing = Instant::now();
        let profiles = &actor.quota_profiles;
        let reservation = self.reserve(profiles, id, &spec, &image, among.as_ref()).await?;
        self.metrics.placement.observe(placing.elapsed().as_secs_f64());
        let Place { worker_id, has_image, .. } = reservation.place;
        let (owner, buckets) = ((actor.tenant_id, actor.user_id), reservation.buckets.clone());
        let mut bunker = Bunker::placed(id, owner, worker_id, buckets, spec, Timestamp::now());
        bunker.starter = Some(self.replicas.id());
        if let (Some(key), None) = (&mut key, wait) {
            key.answer = serde_json::to_string(&bunker::Bunker::from(&bunker)).ok();
        }

        let (written, is_written) = oneshot::channel();
        let start = Start {
            bunker: bunker.clone(),
            fetch: if has_image { None } else { self.images.ask_for_one_bunker(&image) },
            restore: restore.map(|(_, snapshot)| snapshot),
            image: image.image,
            key: key.clone(),
            reservation,
            guard: self.starting.begin(id),
            request_id: actor.request_id.to_string(),
        };
        let service = Arc::clone(self);
        let work = async move { service.carry_out(start, written).await };
        let work = self.tasks.spawn(work.instrument(tracing::Span::current()));
        let is_written = is_written.await;
        drop(first);
        match (is_written, key) {
            (Ok(Ok(Inserted::Done)), key) => {
                let Some(wait) = wait else { return Ok(record(&bunker)) };
                let settled = tokio::select! {
                    settled = timeout(wait, work) => settled.ok().and_then(Result::ok).flatten(),
                    () = self.drained.cancelled() => None,
                };
                let answer = match settled {
                    Some(settled) => settled,
                    None => self.store.bunker(id).await?.unwrap_or(bunker),
                };
                self.answer(&answer, key).await
            }
            (Ok(Ok(Inserted::KeyTaken)), Some(key)) => {
                match self.store.idempotency_key(key.user_id, &key.key).await? {
                    Some(stored) => self.repeat(&key, stored, wait).await,
                    None => Err(interrupted()),
                }
            }
            (Ok(Err(error)), _) => Err(error.into()),
            _ => Err(interrupted()),
        }
    }

    /// The snapshot that is to be started from, and the request with what that says.
    async fn resolve_snapshot(
        &self,
        actor: &Actor,
        request: CreateBunker,
    ) -> Result<(CreateBunker, Option<(SnapshotRecord, RestoreSnapshot)>), Failure> {
        let Some(id) = request.snapshot_id else { return Ok((request, None)) };
        let (record, disk) = to_restore(&self.store, &self.snapshot_keys, actor, id).await?;
        check_fit(&request, &record.spec, record.machine.is_some())?;
        Ok((create::from_snapshot(request, &record.spec), Some((record, disk))))
    }

    /// The workers on which a memory can go on, if there is one, among those with the right bridges.
    pub(super) fn suited(
        &self,
        bridged: Option<BTreeSet<WorkerId>>,
        machine: Option<&Machine>,
    ) -> Result<Option<BTreeSet<WorkerId>>, Failure> {
        let Some(machine) = machine else { return Ok(bridged) };
        let like = self.fleet.workers_like(machine);
        if like.is_empty() {
            let Machine { engine, cpu_class } = machine;
            let message = format!(
                "no linked worker has the engine `{engine}` and the CPU class `{cpu_class}`, which this \
                 memory needs to go on"
            );
            return Err(Failure::new(ErrorCode::NoSuitableWorker, message));
        }
        Ok(Some(like))
    }

    /// The image below a snapshot, which means nothing on another one.
    async fn image_of(
        &self,
        actor: &Actor,
        snapshot: &SnapshotRecord,
    ) -> Result<ImageRecord, Failure> {
        let image = self.images.named(actor, &snapshot.shown.image_id.to_string()).await?;
        if image.image.digest.as_deref() == Some(snapshot.image_digest.as_str()) {
            return Ok(image);
        }
        let message = format!("the image below snapshot {} is another one now", snapshot.shown.id);
        Err(Failure::new(ErrorCode::ImageNotFound, message))
    }

    async fn answer(
        &self,
        bunker: &Bunker,
        key: Option<IdempotencyKey>,
    ) -> Result<CreateAnswer, Failure> {
        let record = bunker::Bunker::from(bunker);
        if let Some(key) = key
            && let Ok(answer) = serde_json::to_string(&record)
        {
            self.store.keep_answer(key.user_id, &key.key, &answer).await?;
        }
        Ok(CreateAnswer::Record(Box::new(record)))
    }

    async fn repeat(
        &self,
        key: &IdempotencyKey,
        stored: StoredKey,
        wait: Option<Duration>,
    ) -> Result<CreateAnswer, Failure> {
        if key.request_hash != stored.request_hash {
            return Err(Failure::new(
                ErrorCode::IdempotencyConflict,
                "this Idempotency-Key was used before with another body; choose a new key",
            ));
        }
        let kept = stored.answer.and_then(|answer| serde_json::from_str(&answer).ok());
        if let Some(answer) = kept {
            return Ok(CreateAnswer::Repeated(answer));
        }
        // The first request still waits, or was cut off before it was answered.
        let Ok(id) = stored.resource_id.parse::<BunkerId>() else { return Err(interrupted()) };
        let _ = timeout(wait.unwrap_or_default(), self.starting.over(id)).await;
        match self.store.bunker(id).await? {
            Some(bunker) => Ok(record(&bunker)),
            None => Err(interrupted()),
        }
    }

    /// Steps 2 to 4. `None` when nothing was written down or the outcome could not be.
    async fn carry_out(
        &self,
        mut start: Start,
        written: oneshot::Sender<Result<Inserted, StoreError>>,
    ) -> Option<Bunker> {
        let inserted = self.store.insert_bunker(&start.bunker, start.key.as_ref()).await;
        let is_new = matches!(inserted, Ok(Inserted::Done));
        start.reservation.kept = is_new;
        if !is_new {
            // The caller may have gone; there is nothing to undo but the reservation.
            let _ = written.send(inserted);
            return None;
        }
        let bunker = start.bunker.clone();
        let _ = written.send(inserted);
        let outcome = self.start_on_worker(bunker, &start).await;
        drop(start.guard);
        match outcome {
            Ok(bunker) => Some(bunker),
            Err(error) => {
                tracing::error!(error = chain(&error), "the outcome of a start was not stored");
                None
            }
        }
    }

    async fn start_on_worker(&self, bunker: Bunker, start: &Start) -> Result<Bunker, StoreError> {
        let (id, worker_id, request_id) = (bunker.id, bunker.worker_id, &start.request_id);
        let Some(link) = self.fleet.link(worker_id) else {
            let reason = "the worker's link broke before the bunker could be started".to_owned();
            let failed = Event::Failed { reason, at: Timestamp::now() };
            return Ok(self.apply(bunker, failed).await?.bunker());
        };
        let bunker = match &start.fetch {
            None => bunker,
            Some(ask) => match self.fetch_image(bunker, &link, start.image.id, ask).await? {
                Outcome::Applied(bunker) if !bunker.status().is_terminal() => bunker,
                outcome => return Ok(outcome.bunker()),
            },
        };
        let spec = start_spec(&bunker.spec, &start.image);
        let starting = async {
            match start.restore.clone() {
                None => link.start(id, &spec, request_id).await,
                Some(snapshot) => {
                    let start = StartFromSnapshot { start: spec, snapshot, goes_on: false };
                    link.start_from_snapshot(id, &start, request_id).await
                }
            }
        };
        tokio::pin!(starting);
        let (bunker, started) = tokio::select! {
            started = &mut starting => (bunker, started),
            () = sleep(QUICK_START) => {
                let bunker = self.apply(bunker, Event::Acknowledged).await?.bunker();
                (bunker, starting.await)
            }
        };
        let outcome = self.apply(bunker, event_of(started)).await?;
        let runs = matches!(&outcome, Outcome::Applied(bunker) if !bunker.status().is_terminal());
        if !runs && let Err(error) = link.remove(id, request_id).await {
            // The reconciler finds what is left.
            tracing::warn!(bunker_id = %id, error = chain(&error), "cannot undo a start");
        }
        Ok(outcome.bunker())
    }

    /// Has the worker get the image, with the bunker `provisioning` meanwhile.
    async fn fetch_image(
        &self,
        bunker: Bunker,
        link: &Link,
        image: ImageId,
        ask: &EnsureImage,
    ) -> Result<Outcome, StoreError> {
        let outcome = self.apply(bunker, Event::Acknowledged).await?;
        let Outcome::Applied(bunker) = outcome else { return Ok(outcome) };
        let fetched = tokio::select! {
            fetched = fetched(link, image, ask) => fetched,
            ended = self.no_longer(BunkerStatus::Provisioning, &bunker) => {
                return Ok(Outcome::Rejected(ended?));
            }
        };
        match fetched {
            Ok(()) => Ok(Outcome::Applied(bunker)),
            Err(reason) => {
                let failed = Event::Failed { reason, at: Timestamp::now() };
                self.apply(bunker, failed).await
            }
        }
    }

    /// The bunker, once somebody has taken it out of `status`.
    async fn no_longer(&self, status: BunkerStatus, bunker: &Bunker) -> Result<Bunker, StoreError> {
        loop {
            sleep(LOOK_INTERVAL).await;
            let current = self.store.bunker(bunker.id).await?.unwrap_or_else(|| bunker.clone());
            if current.status() != status {
                return Ok(current);
            }
        }
    }
}

/// What a worker is asked to start.
#[must_use]
pub fn start_spec(spec: &Spec, image: &Image) -> StartBunker {
    let mut env_vars = image.entrypoint_env.clone();
    env_vars.extend(spec.env_vars.clone());
    StartBunker {
        image: image.digest.clone().unwrap_or_default(),
        cpu_millicores: spec.cpu_millicores,
        memory_mb: spec.memory_mb,
        disk_mb: spec.disk_mb,
        gpu_count: spec.gpu_count,
        env_vars,
        network: StartNetwork {
            profile: spec.network_profile,
            allowlist: spec.network_allowlist.clone().unwrap_or_default(),
            interfaces: spec.interfaces.clone().unwrap_or_default(),
            bandwidth_mbit: spec.bandwidth_mbit,
            egress_audit: spec.egress_audit,
        },
    }
}

/// What a worker's answer to a start means.
pub(super) fn event_of(started: Result<BunkerReport, LinkError>) -> Event {
    let at = Timestamp::now();
    match started {
        Ok(BunkerReport { state: WorkerBunkerState::Ended { reason }, .. }) => {
            Event::Failed { reason, at }
        }
        Ok(BunkerReport { started_at, ip_address, .. }) => {
            Event::Started { at: started_at.unwrap_or(at), ip_address }
        }
        Err(LinkError::Refused(ErrorBody { message, .. })) => Event::Failed { reason: message, at },
        Err(error) => {
            tracing::warn!(error = chain(&error), "a start failed");
            Event::Failed { reason: format!("the start failed: {error}"), at }
        }
    }
}

fn record(bunker: &Bunker) -> CreateAnswer {
    CreateAnswer::Record(Box::new(bunker.into()))
}

fn interrupted() -> Failure {
    Failure::new(
        ErrorCode::ShuttingDown,
        "the server is shutting down; try again with the same Idempotency-Key",
    )
}

/// The hash is of the request's meaning: spaces and the order of fields do not count.
fn idempotency_key(actor: &Actor, key: String, request: &CreateBunker) -> IdempotencyKey {
    let meaning = serde_json::to_vec(request).unwrap_or_default();
    let request_hash = crate::hex(&Sha256::digest(meaning));
    IdempotencyKey { user_id: actor.user_id, key, request_hash, answer: None }
}

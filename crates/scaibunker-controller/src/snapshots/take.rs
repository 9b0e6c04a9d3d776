//! Taking a snapshot, step by step:
//!
//! 1. write it down as `creating`;
//! 2. have the worker copy the disk, or everything, and name the chunks of that;
//! 3. write down which packs it refers to: those that have some of the chunks, and new ones;
//! 4. have the worker store the new packs and the manifest;
//! 5. write down that it is `ready`, and what the new packs have.
//!
//! Whatever fails, it is written down as `failed` and its packs are let go of; if this process ends, another
//! does so.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    bunker::BunkerStatus,
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, PackId, SnapshotId},
    snapshot::{CreateSnapshot, Snapshot, SnapshotKind, SnapshotStatus},
    worker::StartBunker,
};
use scaibunker_snapshot::{
    CHUNK_BYTES, ChunkName, FoundChunk,
    link::{NewPack, StoreSnapshot, TakeSnapshot},
};
use tokio::time::timeout;
use tracing::Instrument as _;

use super::{Snapshots, manifest_key, pack_key, unknown};
use crate::{
    bunkers::start_spec,
    creation::{Created, Creation},
    domain::{
        actor::Actor,
        bunker::Bunker,
        snapshot::{SnapshotRecord, check, check_memory, plan},
    },
    failure::{Failure, chain},
    fleet::{Link, LinkError},
    store::{FinishedSnapshot, StoreError},
};

/// A pack may be let go of between looking and referring to it.
const ATTEMPTS: usize = 5;

/// A snapshot could not be taken.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("its keys are gone")]
    Keys,
    #[error("the image below the bunker's disk is gone")]
    Image,
    #[error("others deleted snapshots all the time; try again")]
    Contended,
}

impl TakeError {
    /// For whoever asks why.
    fn reason(&self) -> String {
        match self {
            Self::Link(LinkError::Refused(ErrorBody { message, .. })) => message.clone(),
            error => chain(error),
        }
    }
}

impl Snapshots {
    /// Takes a snapshot of a bunker that runs or is paused. With `wait` the answer comes once it is ready or
    /// has failed, or after that long.
    pub async fn create(
        self: &Arc<Self>,
        actor: &Actor,
        bunker: BunkerId,
        request: CreateSnapshot,
        key: Option<String>,
        wait: Option<Duration>,
    ) -> Result<Created<Snapshot>, Failure> {
        check(&request, Timestamp::now())?;
        let asked = (bunker, &request);
        let creation = match Creation::begin(&self.store, actor, key, "snapshot", &asked).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let bunker = self.bunkers.get(actor, bunker).await?;
        let (record, link) = self.begin(bunker, request).await?;
        let inserted =
            self.store.insert_snapshot(&record, creation.key(&record.shown).as_ref()).await?;
        match creation.finish(inserted, record.shown.clone(), "id").await? {
            Created::New(_) => Ok(Created::New(self.take(actor, record, link, wait).await?)),
            repeated => Ok(repeated),
        }
    }

    /// Takes the last snapshot of a bunker that is about to end, which expires by itself.
    pub async fn create_last(
        self: &Arc<Self>,
        actor: &Actor,
        bunker: BunkerId,
        limit: Duration,
    ) -> Result<Snapshot, Failure> {
        let bunker = self.bunkers.get(actor, bunker).await?;
        let kept = SignedDuration::from_hours(24 * i64::from(self.retention_days));
        let expires_at = Timestamp::now().checked_add(kept).ok();
        let request = CreateSnapshot { expires_at, ..CreateSnapshot::default() };
        if let Some(id) = bunker.life().evicted_to {
            // It is what there would be a snapshot of.
            return self.keep_evicted(id, request.expires_at).await;
        }
        let (record, link) = self.begin(bunker, request).await?;
        self.store.insert_snapshot(&record, None).await?;
        let taken = self.take(actor, record, link, Some(limit)).await?;
        match taken.status {
            SnapshotStatus::Ready => Ok(taken),
            SnapshotStatus::Creating => {
                let message = format!(
                    "snapshot {} is not stored yet; the bunker runs on: delete it once it is ready",
                    taken.id
                );
                Err(Failure::new(ErrorCode::SnapshotNotReady, message))
            }
            SnapshotStatus::Failed => {
                let reason = taken.status_reason.unwrap_or_default();
                let message =
                    format!("the bunker runs on, because its last snapshot failed: {reason}");
                Err(Failure::new(ErrorCode::SnapshotNotReady, message))
            }
        }
    }

    /// The record of a snapshot that can be taken, and the link to whoever takes it.
    pub(super) async fn begin(
        &self,
        bunker: Bunker,
        request: CreateSnapshot,
    ) -> Result<(SnapshotRecord, Link), Failure> {
        if !matches!(bunker.status(), BunkerStatus::Running | BunkerStatus::Paused) {
            let status = bunker.status().as_str();
            let message =
                format!("the bunker is {status}; only one that runs or is paused can be kept");
            return Err(Failure::new(ErrorCode::BunkerNotRunning, message));
        }
        check_memory(request.kind, &bunker.spec)?;
        let link = self.bunkers.link_of(&bunker)?;
        let machine = match request.kind {
            SnapshotKind::Disk => None,
            SnapshotKind::Memory => self.bunkers.machine_of(&bunker),
        };
        let record = SnapshotRecord {
            machine,
            is_evicted: false,
            shown: Snapshot {
                id: SnapshotId::generate(),
                tenant_id: bunker.tenant_id,
                owner_id: bunker.owner_id,
                bunker_id: bunker.id,
                image_id: bunker.spec.image_id,
                name: request.name,
                kind: request.kind,
                status: SnapshotStatus::Creating,
                status_reason: None,
                size_bytes: 0,
                stored_bytes: 0,
                created_at: Timestamp::now(),
                expires_at: request.expires_at,
            },
            image_digest: self.bunkers.image_digest(bunker.spec.image_id).await?,
            spec: bunker.spec,
            manifest_digest: None,
            sealed_with: self.keys.current_name(),
            starter: self.replicas.id(),
        };
        Ok((record, link))
    }

    /// Steps 2 to 5, in a task of their own.
    async fn take(
        self: &Arc<Self>,
        actor: &Actor,
        record: SnapshotRecord,
        link: Link,
        wait: Option<Duration>,
    ) -> Result<Snapshot, Failure> {
        let id = record.shown.id;
        let (service, request_id) = (Arc::clone(self), actor.request_id.to_string());
        let taking = record.clone();
        let work = async move { service.carry_out(taking, link, &request_id).await };
        let work = self.tasks.spawn(work.instrument(tracing::Span::current()));
        let Some(wait) = wait else { return Ok(record.shown) };
        // It goes on if nobody waits any longer.
        let _ = timeout(wait, work).await;
        let current = self.store.snapshot(id).await?.ok_or_else(|| unknown(id))?;
        Ok(current.shown)
    }

    pub(super) async fn carry_out(&self, record: SnapshotRecord, link: Link, request_id: &str) {
        let (id, bunker_id) = (record.shown.id, record.shown.bunker_id);
        let error = match self.carry_out_steps(&record, &link, request_id).await {
            Ok(true) => return,
            // It was deleted meanwhile.
            Ok(false) => None,
            Err(error) => Some(error.reason()),
        };
        if let Err(error) = link.forget_snapshot(id, request_id).await {
            // The worker lets go of it by itself.
            tracing::debug!(snapshot_id = %id, error = chain(&error), "a copy is not forgotten");
        }
        let Some(reason) = error else { return };
        tracing::warn!(snapshot_id = %id, %bunker_id, reason, "a snapshot failed");
        if let Err(error) = self.store.fail_snapshot(id, record.starter, &reason).await {
            tracing::error!(snapshot_id = %id, error = chain(&error), "its failure is not written down");
        }
    }

    /// Steps 2 to 5.
    async fn carry_out_steps(
        &self,
        record: &SnapshotRecord,
        link: &Link,
        request_id: &str,
    ) -> Result<bool, TakeError> {
        let (id, tenant) = (record.shown.id, record.shown.tenant_id);
        let keys = self.keys.keys(tenant, record.sealed_with.as_deref()).ok_or(TakeError::Keys)?;
        let memory_of = match &record.machine {
            None => None,
            Some(_) => Some(self.start_spec(record).await?),
        };
        let ask = TakeSnapshot { keys, memory_of, evicts: record.is_evicted };
        let taken = link.take_snapshot(record.shown.bunker_id, id, &ask, request_id).await?;
        let names: Vec<_> = taken.chunks.iter().map(|chunk| chunk.name).collect();
        let ask = self.refer(record, &taken.chunks, &names).await?;
        let stored = link.store_snapshot(id, &ask, request_id).await?;
        let stored_bytes = stored.packs.iter().map(|pack| pack.size_bytes).sum::<u64>();
        let finished = FinishedSnapshot {
            id,
            tenant,
            packs: &stored.packs,
            manifest_digest: stored.manifest_digest,
            size_bytes: (names.len() * CHUNK_BYTES) as u64,
            stored_bytes: stored_bytes + stored.manifest_bytes,
        };
        let is_ready = self.store.finish_snapshot(finished).await?;
        tracing::info!(
            snapshot_id = %id,
            bunker_id = %record.shown.bunker_id,
            frozen_us = taken.frozen_us,
            chunks = names.len(),
            stored_bytes,
            "a snapshot is stored"
        );
        Ok(is_ready)
    }

    /// What the bunker was started with.
    async fn start_spec(&self, record: &SnapshotRecord) -> Result<StartBunker, TakeError> {
        let image = self.store.image(record.shown.image_id).await?.ok_or(TakeError::Image)?;
        Ok(start_spec(&record.spec, &image.image))
    }

    /// Decides what is stored anew, and writes down which packs are referred to.
    async fn refer(
        &self,
        record: &SnapshotRecord,
        chunks: &[FoundChunk],
        names: &[ChunkName],
    ) -> Result<StoreSnapshot, TakeError> {
        let (id, tenant) = (record.shown.id, record.shown.tenant_id);
        for _ in 0..ATTEMPTS {
            let plan = plan(chunks, &self.store.stored_chunks(tenant, names).await?);
            let new_packs: Vec<_> = plan
                .new
                .into_iter()
                .map(|chunks| {
                    let pack = PackId::generate();
                    NewPack { id: pack, key: pack_key(tenant, pack), chunks }
                })
                .collect();
            let new: Vec<_> = new_packs.iter().map(|pack| pack.id).collect();
            if self.store.refer_to_packs(id, tenant, &plan.packs, &new).await? {
                let manifest_key = manifest_key(tenant, id);
                let (packs, known) = (plan.packs, plan.known);
                return Ok(StoreSnapshot { packs, known, new_packs, manifest_key });
            }
        }
        Err(TakeError::Contended)
    }
}

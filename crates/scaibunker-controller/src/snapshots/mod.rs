//! Snapshots: taken, listed, changed, checked, deleted.

mod evict;
mod keys;
mod take;
mod tidy;
mod verify;

use std::sync::Arc;

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorCode,
    ids::{PackId, SnapshotId, TenantId},
    snapshot::{PatchSnapshot, Snapshot},
};
use scaibunker_snapshot::link::RestoreSnapshot;
use scaibunker_storage::Objects;
use tokio_util::task::TaskTracker;

use self::evict::Evictions;
pub use self::keys::KeyRing;
use crate::{
    bunkers::Bunkers,
    domain::{
        actor::Actor,
        snapshot::{SnapshotRecord, check_patch, check_ready},
    },
    failure::Failure,
    replicas::Replicas,
    store::Store,
};

/// The service.
pub struct Snapshots {
    store: Store,
    objects: Objects,
    bunkers: Arc<Bunkers>,
    replicas: Arc<Replicas>,
    keys: KeyRing,
    /// How long snapshots are kept that nobody asked for by name, in days.
    retention_days: u32,
    evictions: Evictions,
    /// Everything here that outlives the request which began it.
    tasks: TaskTracker,
}

/// What the service stands on.
pub struct Parts {
    pub store: Store,
    pub objects: Objects,
    pub bunkers: Arc<Bunkers>,
    pub replicas: Arc<Replicas>,
    pub keys: KeyRing,
    pub retention_days: u32,
    pub tasks: TaskTracker,
}

impl Snapshots {
    /// A service on its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, objects, bunkers, replicas, keys, retention_days, tasks } = parts;
        let evictions = Evictions::default();
        Arc::new(Self { store, objects, bunkers, replicas, keys, retention_days, evictions, tasks })
    }

    /// A snapshot that the caller sees; any other does not exist.
    pub async fn get(&self, actor: &Actor, id: SnapshotId) -> Result<Snapshot, Failure> {
        Ok(seen(&self.store, actor, id).await?.shown)
    }

    /// The newest `limit` snapshots that the caller sees.
    pub async fn list(
        &self,
        actor: &Actor,
        before: Option<SnapshotId>,
        limit: usize,
    ) -> Result<Vec<Snapshot>, Failure> {
        let records = self.store.list_snapshots(actor.scope(), before, limit).await?;
        Ok(records.into_iter().map(|record| record.shown).collect())
    }

    /// Changes a snapshot's name and expiry.
    pub async fn patch(
        &self,
        actor: &Actor,
        id: SnapshotId,
        patch: PatchSnapshot,
    ) -> Result<Snapshot, Failure> {
        check_patch(&patch, Timestamp::now())?;
        let mut shown = self.get(actor, id).await?;
        if let Some(name) = patch.name {
            shown.name = name;
        }
        if let Some(expires_at) = patch.expires_at {
            shown.expires_at = expires_at;
        }
        if self.store.update_snapshot(&shown).await? { Ok(shown) } else { Err(unknown(id)) }
    }

    /// Deletes a snapshot. Its chunks go when nothing refers to them any more, a while later.
    pub async fn delete(&self, actor: &Actor, id: SnapshotId) -> Result<(), Failure> {
        let record = seen(&self.store, actor, id).await?;
        self.remove(&record).await
    }
}

/// A snapshot that a bunker may start from, and what its worker needs for that.
pub async fn to_restore(
    store: &Store,
    keys: &KeyRing,
    actor: &Actor,
    id: SnapshotId,
) -> Result<(SnapshotRecord, RestoreSnapshot), Failure> {
    let record = seen(store, actor, id).await?;
    let restore = restorable(&record, keys)?;
    Ok((record, restore))
}

/// What a worker needs to make a bunker what a snapshot says.
pub fn restorable(record: &SnapshotRecord, keys: &KeyRing) -> Result<RestoreSnapshot, Failure> {
    let (id, tenant) = (record.shown.id, record.shown.tenant_id);
    let manifest_digest = check_ready(record)?;
    let keys = keys.keys(tenant, record.sealed_with.as_deref()).ok_or_else(|| {
        let message = format!(
            "snapshot {id} is sealed with a secret that this server does not have; start it with that \
             as SCAIBUNKER_SNAPSHOT_SECRET_PREVIOUS"
        );
        Failure::new(ErrorCode::SnapshotNotReady, message)
    })?;
    Ok(RestoreSnapshot {
        snapshot_id: id,
        manifest_key: manifest_key(tenant, id),
        manifest_digest,
        pack_prefix: pack_prefix(tenant),
        keys,
    })
}

async fn seen(store: &Store, actor: &Actor, id: SnapshotId) -> Result<SnapshotRecord, Failure> {
    match store.snapshot(id).await? {
        Some(record) if record.is_evicted => Err(unknown(id)),
        Some(record) if actor.sees_owned(record.shown.tenant_id, record.shown.owner_id) => {
            Ok(record)
        }
        _ => Err(unknown(id)),
    }
}

fn unknown(id: SnapshotId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no snapshot {id}"))
}

fn manifest_key(tenant: TenantId, id: SnapshotId) -> String {
    format!("snapshots/{tenant}/{id}")
}

fn pack_prefix(tenant: TenantId) -> String {
    format!("snapshots/{tenant}/")
}

fn pack_key(tenant: TenantId, pack: PackId) -> String {
    format!("{}{pack}", pack_prefix(tenant))
}

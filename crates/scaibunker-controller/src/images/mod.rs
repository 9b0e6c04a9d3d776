//! Images: made, changed, warmed, and brought to the workers that shall have them.

mod changes;
mod fanout;
mod groups;
pub mod placement;
mod reports;

use std::{cmp::Reverse, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    error::ErrorCode,
    ids::{ImageId, WorkerId},
    image::{CacheStatus, Image, ImageCacheRow, ImageOrigin},
    permission::Permission,
};
use scaibunker_storage::{Objects, SigningSecret};
use tokio::sync::Notify;

use crate::{
    domain::{
        actor::{Actor, Reach},
        fanout::{Row, Target},
        image::{Home, ImageRecord, sees},
    },
    failure::Failure,
    fleet::Fleet,
    store::{CacheRow, ImageFilter, Store},
};

/// A worker that was asked tells within a heartbeat's time that it has begun.
const RECENT: SignedDuration = SignedDuration::from_secs(15);

/// What images are worked on with.
pub struct Images {
    store: Store,
    fleet: Arc<Fleet>,
    objects: Objects,
    /// Seals the registries' passwords.
    secret: SigningSecret,
    /// Something changed that the fan-out wants to know.
    nudge: Notify,
    /// An image waits for its scan.
    scan_nudge: Notify,
}

impl Images {
    /// The images of a database.
    pub fn new(store: Store, fleet: Arc<Fleet>, objects: Objects, secret: SigningSecret) -> Self {
        Self { store, fleet, objects, secret, nudge: Notify::new(), scan_nudge: Notify::new() }
    }

    /// An image that the caller sees.
    pub async fn image(&self, actor: &Actor, id: ImageId) -> Result<ImageRecord, Failure> {
        actor.require_read(Permission::Create)?;
        let home = self.home(actor).await?;
        match self.store.image(id).await? {
            Some(record) if sees(actor, home, &record.image) => Ok(record),
            _ => Err(no_image(&id.to_string())),
        }
    }

    /// The newest `limit` images that the caller sees.
    pub async fn images(
        &self,
        actor: &Actor,
        before: Option<ImageId>,
        limit: usize,
    ) -> Result<Vec<Image>, Failure> {
        actor.require_read(Permission::Create)?;
        let filter = self.filter(actor).await?;
        let records = self.store.list_images(&filter, None, before, limit).await?;
        Ok(records.into_iter().map(|record| record.image).collect())
    }

    /// What each worker that shall have the image has of it, the newest worker first.
    pub async fn cache(&self, actor: &Actor, id: ImageId) -> Result<Vec<ImageCacheRow>, Failure> {
        let record = self.image(actor, id).await?;
        if record.image.source == ImageOrigin::BuiltIn {
            return Ok(self.built_in_rows(&record.image));
        }
        let rows = self.store.cache_rows(id).await?;
        let mut shown: Vec<_> = rows.into_iter().map(|row| row.shown).collect();
        for worker_id in self.store.workers_of_image(id).await? {
            if !shown.iter().any(|row| row.worker_id == worker_id) {
                shown.push(waiting(worker_id, record.image.created_at));
            }
        }
        for row in &mut shown {
            let waits = row.status == CacheStatus::Pending && row.error.is_none();
            if waits && self.fleet.link(row.worker_id).is_none() {
                row.error = Some("the worker is offline; it gets the image when it is back".into());
            }
        }
        shown.sort_by_key(|row| Reverse(row.worker_id));
        Ok(shown)
    }

    fn built_in_rows(&self, image: &Image) -> Vec<ImageCacheRow> {
        let holders = self.fleet.workers_with(image).into_iter();
        let row = |(worker_id, updated_at)| ImageCacheRow {
            status: CacheStatus::Ready,
            progress: 100,
            size_bytes: image.size_bytes,
            updated_at,
            ..waiting(worker_id, updated_at)
        };
        holders.map(row).collect()
    }

    /// The workers of an image's groups, and what they have of it.
    async fn targets(&self, id: ImageId) -> Result<Vec<Target>, Failure> {
        let rows = self.store.cache_rows(id).await?;
        let workers = self.store.workers_of_image(id).await?;
        let now = Timestamp::now();
        let row_of =
            |worker_id| rows.iter().find(|row: &&CacheRow| row.shown.worker_id == worker_id);
        let target = |worker_id| Target {
            worker_id,
            is_linked: self.fleet.link(worker_id).is_some(),
            is_alive: self.fleet.is_alive(worker_id),
            row: row_of(worker_id).map(|row| Row {
                status: row.shown.status,
                cause: row.cause,
                error: row.shown.error.clone(),
                is_recent: now.duration_since(row.shown.updated_at) < RECENT,
            }),
        };
        Ok(workers.into_iter().map(target).collect())
    }

    /// Where a caller stands.
    async fn home(&self, actor: &Actor) -> Result<Home, Failure> {
        let tenant = self.store.tenant(actor.tenant_id).await?;
        let tenant = tenant.ok_or_else(|| {
            Failure::new(ErrorCode::NotFound, "your tenant does not exist any more")
        })?;
        Ok(Home { tenant_id: actor.tenant_id, partner_id: tenant.partner_id })
    }

    async fn filter(&self, actor: &Actor) -> Result<ImageFilter, Failure> {
        Ok(match &actor.reach {
            Reach::Platform => ImageFilter::Everything,
            Reach::Partner(partner, _) => ImageFilter::Partner(*partner),
            Reach::Tenant(tenant) => {
                ImageFilter::Tenant(*tenant, self.home(actor).await?.partner_id)
            }
        })
    }

    /// Has the fan-out look at once.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Returns when somebody nudged.
    pub async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Has the scanner look at once.
    pub fn nudge_scanner(&self) {
        self.scan_nudge.notify_one();
    }

    /// Returns when the scanner is to look.
    pub async fn scan_wanted(&self) {
        self.scan_nudge.notified().await;
    }
}

/// What a sealed password is for, so that it opens nothing else.
fn purpose(id: ImageId) -> String {
    format!("registry_auth of {id}")
}

fn waiting(worker_id: WorkerId, since: Timestamp) -> ImageCacheRow {
    ImageCacheRow {
        worker_id,
        status: CacheStatus::Pending,
        progress: 0,
        error: None,
        size_bytes: None,
        updated_at: since,
    }
}

fn no_image(name: &str) -> Failure {
    let message = format!("there is no image `{name}`; `GET /images` lists those there are");
    Failure::new(ErrorCode::ImageNotFound, message)
}

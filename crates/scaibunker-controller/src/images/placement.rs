//! Which image a create means, and where it can be started.

use std::time::Duration;

use scaibunker_api::{
    error::ErrorCode,
    ids::{ImageId, WorkerId},
    image::{CacheStatus, ImageOrigin, ImageStatus},
    worker::{EnsureImage, ImageFaultCause, ImageFrom},
};
use tokio::time::{Instant, sleep};

use super::{Images, no_image};
use crate::{
    domain::{
        actor::Actor,
        fanout::why_nowhere,
        image::{ImageRecord, meant, sees},
        placement::NoPlace,
    },
    failure::{Failure, chain},
    fleet::Link,
    store::ImageFilter,
};

/// A worker that has an image to get before a bunker can start takes no longer than this.
const FETCH_LIMIT: Duration = Duration::from_secs(15 * 60);
const FETCH_POLL: Duration = Duration::from_millis(500);

/// More images of one name are not looked through.
const MAX_NAMESAKES: usize = 200;

impl Images {
    /// The image that a create names: an id, a name, or `name@sha256:…`.
    pub async fn named(&self, actor: &Actor, text: &str) -> Result<ImageRecord, Failure> {
        let home = self.home(actor).await?;
        if let Ok(id) = text.parse::<ImageId>() {
            let found = self.store.image(id).await?;
            let seen = found.filter(|record| sees(actor, home, &record.image));
            return seen.ok_or_else(|| no_image(text));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let filter = ImageFilter::Tenant(home.tenant_id, home.partner_id);
        let found = self.store.list_images(&filter, Some(name), None, MAX_NAMESAKES).await?;
        let is_meant = |record: &&ImageRecord| {
            digest.is_none_or(|digest| record.image.digest.as_deref() == Some(digest))
        };
        let candidates: Vec<_> = found.iter().filter(is_meant).collect();
        // Of built-in images with one name, one that a linked worker has comes first.
        let at_hand = |record: &&&ImageRecord| {
            record.image.source != ImageOrigin::BuiltIn || self.fleet.has_image(&record.image)
        };
        let preferred = candidates.iter().filter(at_hand).map(|record| &record.image);
        let all = || candidates.iter().map(|record| &record.image);
        let id = meant(home, preferred).or_else(|| meant(home, all())).map(|image| image.id);
        found.into_iter().find(|record| Some(record.image.id) == id).ok_or_else(|| {
            if self.fleet.has_linked_worker() { no_image(text) } else { NoPlace::NoWorker.into() }
        })
    }

    /// The workers that may be asked for an image they do not have, for one bunker's sake.
    pub async fn fetchers(&self, record: &ImageRecord) -> Result<Vec<WorkerId>, Failure> {
        if record.image.status != ImageStatus::Ready || record.baked().is_none() {
            return Ok(Vec::new());
        }
        let targets = self.targets(record.image.id).await?;
        let may_fetch = targets.into_iter().filter(|target| {
            let evicted =
                target.row.as_ref().is_some_and(|row| row.cause == Some(ImageFaultCause::Evicted));
            record.image.lazy_pull || evicted
        });
        Ok(may_fetch.map(|target| target.worker_id).collect())
    }

    /// The refusal of a create for which no worker has the image.
    pub async fn nowhere(&self, record: &ImageRecord) -> Result<Failure, Failure> {
        if record.image.source == ImageOrigin::BuiltIn {
            return Ok(NoPlace::NoImage.into());
        }
        let targets = self.targets(record.image.id).await?;
        let reason = record.image.status_reason.as_deref();
        let message = why_nowhere(record.image.status, reason, &targets);
        Ok(Failure::new(ErrorCode::NoSuitableWorker, message))
    }

    /// What a worker without the image is asked before it can start a bunker.
    pub fn ask_for_one_bunker(&self, record: &ImageRecord) -> Option<EnsureImage> {
        let image = &record.image;
        Some(EnsureImage {
            name: image.name.clone(),
            from: ImageFrom::Stored { baked: record.baked()? },
            default_cpu_millicores: image.default_cpu_millicores,
            default_memory_mb: image.default_memory_mb,
            default_disk_mb: image.default_disk_mb,
        })
    }
}

/// Waits until the worker has the image; the error is for the bunker's record.
pub async fn fetched(link: &Link, id: ImageId, ask: &EnsureImage) -> Result<(), String> {
    let failed = |reason: String| format!("the worker could not get the image: {reason}");
    let began = Instant::now();
    let mut report = link.ensure_image(id, ask).await.map_err(|error| failed(chain(&error)))?;
    while began.elapsed() < FETCH_LIMIT {
        match (report.status, report.error) {
            (CacheStatus::Ready, _) => return Ok(()),
            (CacheStatus::Failed, Some(fault)) => return Err(failed(fault.message)),
            _ => {}
        }
        sleep(FETCH_POLL).await;
        report = link.image(id).await.map_err(|error| failed(chain(&error)))?;
    }
    Err(failed(format!("it was not there after {} s", FETCH_LIMIT.as_secs())))
}

//! What workers say of their images.

use jiff::Timestamp;
use scaibunker_api::{
    ids::{ImageId, WorkerId},
    image::{CacheStatus, Image, ImageStatus},
    worker::{BakedRoot, ImageReport},
};

use super::Images;
use crate::{
    domain::image::ImageEvent,
    failure::{Failure, chain},
    store::{StoreError, Updated},
};

const ATTEMPTS: usize = 5;

impl Images {
    /// Takes a heartbeat's reports in: what changed is written down, and what a worker has of
    /// images that are not there any more it is told to forget.
    pub async fn observe(&self, worker_id: WorkerId, reports: &[ImageReport]) {
        let before = self.fleet.note_images(worker_id, reports);
        for report in reports {
            if before.iter().any(|old| old == report) {
                continue;
            }
            if let Err(error) = self.take_in(worker_id, report).await {
                // It is new again in the next heartbeat.
                self.fleet.forget_report(worker_id, report.image_id);
                let (id, error) = (report.image_id, chain(&error));
                tracing::warn!(image_id = %id, error, "a report of an image was not stored");
            }
        }
        let ids: Vec<_> = reports.iter().map(|report| report.image_id).collect();
        let lost = before.iter().any(|old| !ids.contains(&old.image_id));
        if lost && let Err(error) = self.store.keep_cache_rows(worker_id, &ids).await {
            tracing::warn!(error = chain(&error), "what a worker lost is not noted");
        }
    }

    /// Notes what a worker has when it registers: nothing but this.
    pub async fn observe_all(&self, worker_id: WorkerId, reports: &[ImageReport]) {
        let ids: Vec<_> = reports.iter().map(|report| report.image_id).collect();
        if let Err(error) = self.store.keep_cache_rows(worker_id, &ids).await {
            tracing::warn!(error = chain(&error), "what a worker lost is not noted");
        }
        self.observe(worker_id, reports).await;
        self.nudge();
    }

    pub(super) async fn take_in(
        &self,
        worker_id: WorkerId,
        report: &ImageReport,
    ) -> Result<(), Failure> {
        let Some(record) = self.store.image(report.image_id).await? else {
            self.tell_to_forget(worker_id, report.image_id).await;
            // Should it not have heard: its next heartbeat is looked at again.
            self.fleet.forget_report(worker_id, report.image_id);
            return Ok(());
        };
        if !self.is_kept_by(worker_id, report.image_id).await? {
            // It was taken out of the image's groups while it was away.
            return self.let_go(worker_id, report.image_id).await;
        }
        // The image is ready before a row says so: who reads the row may create at once.
        let image = match &report.baked {
            Some(baked) => self.stored(report, baked).await?.unwrap_or(record.image),
            None => record.image,
        };
        self.note_report(worker_id, &seen_with(&image, report)).await?;
        let has_settled = matches!(report.status, CacheStatus::Ready | CacheStatus::Failed);
        if has_settled || report.error.is_some() {
            self.nudge();
        }
        Ok(())
    }

    async fn note_report(&self, worker_id: WorkerId, report: &ImageReport) -> Result<(), Failure> {
        // A worker whose clock is ahead must not hold up what it says later.
        let updated_at = report.updated_at.min(Timestamp::now());
        let report = ImageReport { updated_at, ..report.clone() };
        self.store.put_cache_row(worker_id, &report).await?;
        // Who has just taken it out of the image's groups did not see the row.
        match self.is_kept_by(worker_id, report.image_id).await? {
            true => Ok(()),
            false => self.let_go(worker_id, report.image_id).await,
        }
    }

    async fn is_kept_by(&self, worker_id: WorkerId, image: ImageId) -> Result<bool, StoreError> {
        Ok(self.store.workers_of_image(image).await?.contains(&worker_id))
    }

    /// Takes a stored root as the image's, unless it has one; the image as it is then.
    async fn stored(
        &self,
        report: &ImageReport,
        baked: &BakedRoot,
    ) -> Result<Option<Image>, Failure> {
        let id = report.image_id;
        // The worker may write below the image's own prefix and name nothing else.
        if !baked.key.starts_with(&format!("images/{id}/")) {
            tracing::warn!(image_id = %id, key = baked.key, "a worker names a key not the image's");
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            let Some(record) = self.store.image(id).await? else { return Ok(None) };
            let Some(next) = record.apply(ImageEvent::Stored(Box::new(baked.clone()))) else {
                return Ok(Some(record.image));
            };
            if self.store.update_image(&next).await? == Updated::Done {
                tracing::info!(image_id = %id, digest = baked.digest, "an image is ready");
                // Others may have baked it as well, with another result.
                for (worker_id, report) in self.fleet.reports_of(id) {
                    self.note_report(worker_id, &seen_with(&next.image, &report)).await?;
                }
                self.nudge();
                self.nudge_scanner();
                return Ok(Some(next.image));
            }
        }
        Ok(None)
    }
}

/// A worker that has another root than the one that became the image has not got the image.
fn seen_with(image: &Image, report: &ImageReport) -> ImageReport {
    let is_other = report.status == CacheStatus::Ready
        && image.status == ImageStatus::Ready
        && report.digest != image.digest;
    let status = if is_other { CacheStatus::Pending } else { report.status };
    ImageReport { status, ..report.clone() }
}

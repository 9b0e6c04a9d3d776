//! What workers say of their images.

use jiff::Timestamp;
use scaibunker_api::{
    ids::WorkerId,
    image::CacheStatus,
    worker::{BakedRoot, ImageReport},
};

use super::Images;
use crate::{
    domain::image::ImageEvent,
    failure::{Failure, chain},
    store::Updated,
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
        if self.store.image(report.image_id).await?.is_none() {
            self.tell_to_forget(worker_id, report.image_id).await;
            // Should it not have heard: its next heartbeat is looked at again.
            self.fleet.forget_report(worker_id, report.image_id);
            return Ok(());
        }
        self.note_report(worker_id, report).await?;
        if let Some(baked) = &report.baked {
            self.stored(report, baked).await?;
        }
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
        Ok(self.store.put_cache_row(worker_id, &report).await?)
    }

    async fn stored(&self, report: &ImageReport, baked: &BakedRoot) -> Result<(), Failure> {
        let id = report.image_id;
        // The worker may write below the image's own prefix and name nothing else.
        if !baked.key.starts_with(&format!("images/{id}/")) {
            tracing::warn!(image_id = %id, key = baked.key, "a worker names a key not the image's");
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let Some(record) = self.store.image(id).await? else { return Ok(()) };
            let Some(next) = record.apply(ImageEvent::Stored(Box::new(baked.clone()))) else {
                return Ok(());
            };
            if self.store.update_image(&next).await? == Updated::Done {
                tracing::info!(image_id = %id, digest = baked.digest, "an image is ready");
                self.nudge();
                return Ok(());
            }
        }
        Ok(())
    }
}

//! Scans of images for known faults, by Trivy.
//!
//! A scan is a row of the database that a controller takes under a lease and renews while it works:
//! of several controllers one runs it, and another takes it up when that one dies. Each controller
//! runs one scan at a time.

mod report;
mod root_file;
mod trivy;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    ids::ImageId,
    image::{ImageOrigin, ImageScan, ImageStatus, ScanStatus, SeverityCounts},
    permission::Permission,
};
use scaibunker_storage::Objects;
use tokio::time::sleep;

use self::trivy::{ScanError, Trivy};
use crate::{
    domain::{
        actor::Actor,
        image::{ImageRecord, check_change},
        scan::ScanOutcome,
    },
    failure::{Failure, chain},
    images::Images,
    store::{ScanLease, Store},
};

/// A controller that has not renewed its lease for this long has lost the scan.
const LEASE: SignedDuration = SignedDuration::from_secs(60);
const RENEWAL: Duration = Duration::from_secs(20);

/// What images are scanned with.
pub struct Scans {
    store: Store,
    images: Arc<Images>,
    objects: Objects,
    trivy: Trivy,
}

impl Scans {
    /// Scans by `program`, which is looked for in PATH if it is a bare name, in the directory `dir`.
    pub fn new(
        store: Store,
        images: Arc<Images>,
        objects: Objects,
        program: PathBuf,
        dir: PathBuf,
    ) -> Self {
        Self { store, images, objects, trivy: Trivy::new(program, dir) }
    }

    /// What is known of an image's faults.
    pub async fn show(&self, actor: &Actor, id: ImageId) -> Result<ImageScan, Failure> {
        let record = self.images.image(actor, id).await?;
        Ok(self.store.scan(id).await?.unwrap_or_else(|| never_scanned(&record)))
    }

    /// Has an image scanned, again if it was. One that is being scanned is not begun anew.
    pub async fn request(&self, actor: &Actor, id: ImageId) -> Result<ImageScan, Failure> {
        actor.require(Permission::ImagesManage)?;
        let record = self.images.image(actor, id).await?;
        if record.image.source != ImageOrigin::BuiltIn {
            check_change(actor, &record.image)?;
        }
        // One that is not baked yet is scanned as soon as it is.
        if record.baked().is_some() {
            self.store.request_scan(id, Timestamp::now()).await?;
            self.images.nudge_scanner();
        }
        self.show(actor, id).await
    }

    /// Runs the scans that wait, one after the other.
    pub async fn run_pending(&self) -> Result<(), Failure> {
        let lease = || {
            let now = Timestamp::now();
            (now, now + LEASE)
        };
        loop {
            let (now, until) = lease();
            let Some(mut held) = self.store.take_scan(now, until).await? else { return Ok(()) };
            let outcome = {
                let mut scan = std::pin::pin!(self.scan(held.image_id));
                loop {
                    tokio::select! {
                        outcome = &mut scan => break Some(outcome),
                        () = sleep(RENEWAL) => {
                            let Some(renewed) = self.store.renew_scan(held, lease().1).await? else {
                                break None;
                            };
                            held = renewed;
                        }
                    }
                }
            };
            match outcome {
                Some(outcome) => self.finish(held, outcome).await?,
                None => {
                    tracing::warn!(image_id = %held.image_id, "another controller scans an image")
                }
            }
        }
    }

    async fn scan(&self, id: ImageId) -> Result<ScanOutcome, ScanError> {
        let record = self.store.image(id).await?.ok_or(ScanError::NotStored)?;
        let root = record.baked().ok_or(ScanError::NotStored)?;
        tracing::info!(image_id = %id, image = record.image.name, "scanning an image");
        self.trivy.scan(&self.objects, &root).await
    }

    async fn finish(
        &self,
        lease: ScanLease,
        outcome: Result<ScanOutcome, ScanError>,
    ) -> Result<(), Failure> {
        let id = lease.image_id;
        let outcome = match outcome {
            Ok(outcome) => {
                tracing::info!(image_id = %id, counts = ?outcome.counts, "an image is scanned");
                Ok(outcome)
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(image_id = %id, error, "an image was not scanned");
                Err(error)
            }
        };
        Ok(self.store.finish_scan(lease, outcome, Timestamp::now()).await?)
    }
}

/// What is said of an image that no scan was ever asked for.
fn never_scanned(record: &ImageRecord) -> ImageScan {
    let (status, message) = match &record.image {
        image if image.source == ImageOrigin::BuiltIn => {
            let message = "built-in images are made on each worker and kept nowhere else: there is \
                           nothing for the controller to scan";
            (ScanStatus::Skipped, message)
        }
        image if image.status == ImageStatus::Failed => (
            ScanStatus::Pending,
            "the image could not be baked; `POST /images/{id}/warm` tries again",
        ),
        _ => (ScanStatus::Pending, "the image is scanned once it is ready"),
    };
    ImageScan {
        image_id: record.image.id,
        status,
        message: Some(message.to_owned()),
        scanner: None,
        counts: SeverityCounts::default(),
        findings: Vec::new(),
        truncated: false,
        requested_at: None,
        finished_at: None,
    }
}

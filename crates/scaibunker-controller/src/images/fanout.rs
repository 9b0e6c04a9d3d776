//! Carrying out what `domain::fanout` decides.

use scaibunker_api::{
    ids::{ImageId, WorkerId},
    image::{ImageOrigin, RegistryAuth},
    worker::{BakeSource, BakedRoot, EnsureImage, ImageFrom, ImageReport},
};

use super::{Images, purpose};
use crate::{
    domain::{
        fanout::{Step, Subject, decide},
        image::{ImageEvent, ImageRecord},
    },
    failure::{Failure, chain},
    fleet::LinkError,
    store::Updated,
};

/// A worker could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the worker is offline")]
    Offline,
    #[error("the registry's password cannot be opened: the capability secret was changed twice")]
    Sealed,
    #[error("the image has no source that a worker could use")]
    NoSource,
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Images {
    /// Brings every image a step nearer to where it shall be.
    pub async fn fan_out(&self) -> Result<(), Failure> {
        for record in self.store.images_to_fan_out().await? {
            let id = record.image.id;
            if let Err(error) = self.fan_out_image(record).await {
                tracing::warn!(image_id = %id, error = chain(&error), "an image is not fanned out");
            }
        }
        Ok(())
    }

    async fn fan_out_image(&self, record: ImageRecord) -> Result<(), Failure> {
        let subject = Subject {
            status: record.image.status,
            baker_id: record.baker_id,
            lazy_pull: record.image.lazy_pull,
            seed: record.image.id.spread() as usize,
        };
        for step in decide(subject, &self.targets(record.image.id).await?) {
            self.carry_out(&record, step).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, record: &ImageRecord, step: Step) -> Result<(), Failure> {
        let id = record.image.id;
        let asked = match step {
            Step::Bake(worker_id) => {
                // Another controller may have chosen somebody at the same time.
                if !self.change(record, ImageEvent::BakeBegan { worker_id }).await? {
                    return Ok(());
                }
                tracing::info!(image_id = %id, %worker_id, image = record.image.name, "a worker bakes an image");
                self.ask_to_bake(worker_id, record).await
            }
            Step::Remind(worker_id) => self.ask_to_bake(worker_id, record).await,
            Step::LoseBaker => {
                self.change(record, ImageEvent::BakerLost).await?;
                self.nudge();
                Ok(())
            }
            Step::Fail(reason) => {
                tracing::warn!(image_id = %id, image = record.image.name, reason, "an image cannot be baked");
                self.change(record, ImageEvent::Failed { reason }).await?;
                Ok(())
            }
            Step::Fetch(worker_id) => match record.baked() {
                Some(baked) => self.ask_to_fetch(worker_id, record, baked).await,
                None => Ok(()),
            },
        };
        if let Err(error) = asked {
            // The next run asks again.
            tracing::warn!(image_id = %id, error = chain(&error), "a worker was not asked for an image");
        }
        Ok(())
    }

    /// Writes a change down; whether it was the first.
    async fn change(&self, record: &ImageRecord, event: ImageEvent) -> Result<bool, Failure> {
        let Some(next) = record.apply(event) else { return Ok(false) };
        Ok(self.store.update_image(&next).await? == Updated::Done)
    }

    async fn ask_to_bake(&self, worker_id: WorkerId, record: &ImageRecord) -> Result<(), AskError> {
        let source = match &record.image.source {
            ImageOrigin::BuiltIn => return Err(AskError::NoSource),
            ImageOrigin::Oci { reference, .. } => {
                BakeSource::Oci { reference: reference.clone(), auth: self.registry_auth(record)? }
            }
            ImageOrigin::Tar { path: Some(path), .. } => BakeSource::TarPath { path: path.clone() },
            ImageOrigin::Tar { key: Some(key), .. } => BakeSource::TarKey { key: key.clone() },
            ImageOrigin::Tar { .. } => return Err(AskError::NoSource),
        };
        let from = ImageFrom::Source { source, size_mib: record.image.size_mib };
        self.ask(worker_id, record, from).await
    }

    pub(super) async fn ask_to_fetch(
        &self,
        worker_id: WorkerId,
        record: &ImageRecord,
        baked: BakedRoot,
    ) -> Result<(), AskError> {
        self.ask(worker_id, record, ImageFrom::Stored { baked }).await
    }

    async fn ask(
        &self,
        worker_id: WorkerId,
        record: &ImageRecord,
        from: ImageFrom,
    ) -> Result<(), AskError> {
        let image = &record.image;
        let link = self.fleet.link(worker_id).ok_or(AskError::Offline)?;
        let ask = EnsureImage {
            name: image.name.clone(),
            from,
            default_cpu_millicores: image.default_cpu_millicores,
            default_memory_mb: image.default_memory_mb,
            default_disk_mb: image.default_disk_mb,
        };
        let report: ImageReport = link.ensure_image(image.id, &ask).await?;
        self.fleet.note_image(worker_id, &report);
        if let Err(error) = self.take_in(worker_id, &report).await {
            self.fleet.forget_report(worker_id, image.id);
            // The next heartbeat tells the same.
            tracing::warn!(error = chain(&error), "what a worker has of an image was not stored");
        }
        Ok(())
    }

    fn registry_auth(&self, record: &ImageRecord) -> Result<Option<RegistryAuth>, AskError> {
        let Some(sealed) = &record.registry_auth else { return Ok(None) };
        let opened = self.secret.unseal(&purpose(record.image.id), sealed);
        let auth = opened.and_then(|text| serde_json::from_str(&text).ok());
        auth.map(Some).ok_or(AskError::Sealed)
    }

    /// Takes an image from a worker that is not to keep it. Bunkers that run from it go on.
    pub(super) async fn let_go(&self, worker_id: WorkerId, id: ImageId) -> Result<(), Failure> {
        self.fleet.forget_report(worker_id, id);
        self.tell_to_forget(worker_id, id).await;
        Ok(self.store.forget_cache_row(worker_id, id).await?)
    }

    /// A worker that does not hear it is told when it next names the image.
    pub(super) async fn tell_to_forget(&self, worker_id: WorkerId, id: ImageId) {
        let Some(link) = self.fleet.link(worker_id) else { return };
        if let Err(error) = link.forget_image(id).await {
            tracing::warn!(image_id = %id, error = chain(&error), "a worker keeps an image that it is not to have");
        }
    }
}

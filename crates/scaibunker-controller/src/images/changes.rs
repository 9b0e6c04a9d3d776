//! Making, changing, warming and deleting images.

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::ImageId,
    image::{
        CacheStatus, CreateImage, CreatedImage, Image, ImageOrigin, ImageSource, ImageStatus,
        PatchImage, RegistryAuth, ScanStatus, WarmCounts,
    },
    permission::Permission,
};

use super::{Images, no_image, purpose};
use crate::{
    creation::{Created, Creation, already_exists},
    domain::{
        actor::Actor,
        fanout::Target,
        image::{ImageEvent, ImageRecord, check_change, check_create, check_patch},
    },
    failure::{Failure, chain},
    store::Updated,
};

const DEFAULT_CPU_MILLICORES: u32 = 1000;
const DEFAULT_MEMORY_MB: u32 = 512;
const DEFAULT_DISK_MB: u32 = 1024;

/// How often a change is tried again that somebody else was quicker with.
const ATTEMPTS: usize = 5;

impl Images {
    /// Registers an image; the workers get it in the background.
    pub async fn create(
        &self,
        actor: &Actor,
        request: CreateImage,
        key: Option<String>,
    ) -> Result<Created<CreatedImage>, Failure> {
        actor.require(Permission::ImagesManage)?;
        let owner = check_create(actor, self.home(actor).await?, &request)?;
        let creation = match Creation::begin(&self.store, actor, key, "image", &request).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let id = ImageId::generate();
        let (source, auth) = origin(request.source);
        let image = Image {
            id,
            name: request.name,
            scope: request.scope,
            tenant_id: owner.tenant_id,
            partner_id: owner.partner_id,
            created_by: Some(actor.user_id),
            created_at: Timestamp::now(),
            source,
            status: ImageStatus::Pending,
            status_reason: None,
            digest: None,
            manifest_digest: None,
            size_bytes: None,
            size_mib: request.size_mib,
            default_cpu_millicores: request
                .default_cpu_millicores
                .unwrap_or(DEFAULT_CPU_MILLICORES),
            default_memory_mb: request.default_memory_mb.unwrap_or(DEFAULT_MEMORY_MB),
            default_disk_mb: request.default_disk_mb.unwrap_or(DEFAULT_DISK_MB),
            lazy_pull: request.lazy_pull,
            entrypoint_env: request.entrypoint_env,
            config: None,
            scan_status: ScanStatus::Pending,
        };
        let registry_auth = auth.map(|auth| self.sealed(id, &auth)).transpose()?;
        let record =
            ImageRecord { image, generation: 0, registry_auth, stored_key: None, baker_id: None };
        // Who is asked first is known only after it is written down.
        let expected = self.expected_counts(record.image.lazy_pull).await?;
        let answer = CreatedImage { image: record.image.clone(), warm: expected };
        let key = creation.key(&answer);
        let inserted = self.store.insert_image(&record, key.as_ref()).await?;
        self.nudge();
        creation.finish(inserted, answer, "name").await
    }

    /// Of the default group, which a new image is in: online workers will be asked, unless only
    /// bunkers shall have it fetched.
    async fn expected_counts(&self, lazy_pull: bool) -> Result<WarmCounts, Failure> {
        let groups = self.store.list_availability_groups(None, usize::MAX).await?;
        let default = groups.into_iter().find(|group| group.is_default);
        let workers = default.map(|group| group.worker_ids).unwrap_or_default();
        let linked = workers.iter().filter(|id| self.fleet.link(**id).is_some()).count();
        let queued = if lazy_pull { 0 } else { linked };
        Ok(WarmCounts {
            queued: queued as u64,
            skipped: (workers.len() - queued) as u64,
            ..WarmCounts::default()
        })
    }

    /// Changes what may change of an image; its content never does.
    pub async fn patch(
        &self,
        actor: &Actor,
        id: ImageId,
        patch: PatchImage,
    ) -> Result<Image, Failure> {
        actor.require(Permission::ImagesManage)?;
        check_patch(&patch)?;
        for _ in 0..ATTEMPTS {
            let mut record = self.own_image(actor, id).await?;
            self.apply_patch(&mut record, &patch)?;
            record.generation += 1;
            match self.store.update_image(&record).await? {
                Updated::Done => {
                    self.nudge();
                    return Ok(record.image);
                }
                Updated::Exists => return Err(already_exists("name")),
                _ => {}
            }
        }
        Err(busy(id))
    }

    fn apply_patch(&self, record: &mut ImageRecord, patch: &PatchImage) -> Result<(), Failure> {
        let image = &mut record.image;
        if let Some(auth) = &patch.registry_auth {
            let ImageOrigin::Oci { has_registry_auth, .. } = &mut image.source else {
                let message = "only an image from a registry has credentials";
                return Err(ErrorBody::invalid("registry_auth", message).into());
            };
            *has_registry_auth = true;
            record.registry_auth = Some(self.sealed(image.id, auth)?);
        }
        let set = |target: &mut u32, value: Option<u32>| *target = value.unwrap_or(*target);
        set(&mut image.default_cpu_millicores, patch.default_cpu_millicores);
        set(&mut image.default_memory_mb, patch.default_memory_mb);
        set(&mut image.default_disk_mb, patch.default_disk_mb);
        image.lazy_pull = patch.lazy_pull.unwrap_or(image.lazy_pull);
        if let Some(name) = &patch.name {
            image.name.clone_from(name);
        }
        if let Some(env) = &patch.entrypoint_env {
            image.entrypoint_env.clone_from(env);
        }
        Ok(())
    }

    /// Deletes an image that no bunker uses, with all that is stored of it.
    pub async fn delete(&self, actor: &Actor, id: ImageId) -> Result<(), Failure> {
        actor.require(Permission::ImagesManage)?;
        let record = self.own_image(actor, id).await?;
        let live = self.store.live_bunkers(None).await?;
        let users = live.iter().filter(|bunker| bunker.spec.image_id == id).count();
        if users > 0 {
            let message = format!("{users} bunkers use this image; end them first");
            return Err(Failure::new(ErrorCode::InUse, message));
        }
        if self.store.has_snapshot_on(id).await? {
            let message = "snapshots are of bunkers with this image; delete those first";
            return Err(Failure::new(ErrorCode::InUse, message));
        }
        if self.store.delete_image(id, Timestamp::now()).await? != Updated::Done {
            return Err(no_image(&id.to_string()));
        }
        let uploaded = match &record.image.source {
            ImageOrigin::Tar { key, .. } if !self.store.is_source_in_use(&record.image).await? => {
                key.clone()
            }
            _ => None,
        };
        for key in record.stored_key.into_iter().chain(uploaded) {
            if let Err(error) = self.objects.delete(&key).await {
                tracing::warn!(key, error = chain(&error), "an object of a deleted image stays");
            }
        }
        for worker_id in self.fleet.linked_workers() {
            self.fleet.forget_report(worker_id, id);
            self.tell_to_forget(worker_id, id).await;
        }
        Ok(())
    }

    /// Has every worker of the image's groups get it, also those that failed or have evicted it.
    pub async fn warm(&self, actor: &Actor, id: ImageId) -> Result<WarmCounts, Failure> {
        actor.require(Permission::ImagesManage)?;
        let record = self.image(actor, id).await?;
        if record.image.source == ImageOrigin::BuiltIn {
            let ready = self.fleet.workers_with(&record.image).len() as u64;
            return Ok(WarmCounts { ready, ..WarmCounts::default() });
        }
        check_change(actor, &record.image)?;
        let record = self.retried(record).await?;
        if record.image.status != ImageStatus::Ready {
            // What workers said of an earlier attempt is no reason not to ask them again.
            self.store.forget_failures(id).await?;
        }
        let mut counts = WarmCounts::default();
        for target in self.targets(id).await? {
            match self.warm_one(&record, &target).await {
                Warmed::Queued => counts.queued += 1,
                Warmed::Ready => counts.ready += 1,
                Warmed::Failed => counts.failed += 1,
                Warmed::Skipped => counts.skipped += 1,
            }
        }
        self.nudge();
        Ok(counts)
    }

    /// The image, given another chance if it had failed.
    async fn retried(&self, mut record: ImageRecord) -> Result<ImageRecord, Failure> {
        for _ in 0..ATTEMPTS {
            let Some(next) = record.apply(ImageEvent::Retried) else { return Ok(record) };
            if self.store.update_image(&next).await? == Updated::Done {
                return Ok(next);
            }
            let id = record.image.id;
            record = self.store.image(id).await?.ok_or_else(|| no_image(&id.to_string()))?;
        }
        Err(busy(record.image.id))
    }

    async fn warm_one(&self, record: &ImageRecord, target: &Target) -> Warmed {
        if target.row.as_ref().is_some_and(|row| row.status == CacheStatus::Ready) {
            return Warmed::Ready;
        }
        if !target.is_linked {
            return Warmed::Skipped;
        }
        match record.baked() {
            Some(baked) => match self.ask_to_fetch(target.worker_id, record, baked).await {
                Ok(()) => Warmed::Queued,
                Err(_) => Warmed::Failed,
            },
            // One of them bakes it, as the fan-out chooses.
            None => Warmed::Queued,
        }
    }

    /// An image that the caller may change.
    pub(super) async fn own_image(
        &self,
        actor: &Actor,
        id: ImageId,
    ) -> Result<ImageRecord, Failure> {
        let record = self.image(actor, id).await?;
        check_change(actor, &record.image)?;
        Ok(record)
    }

    fn sealed(&self, id: ImageId, auth: &RegistryAuth) -> Result<String, Failure> {
        let text = serde_json::to_string(auth).unwrap_or_default();
        self.secret.seal(&purpose(id), &text).ok_or_else(|| {
            Failure::new(ErrorCode::Internal, "the machine gave no random numbers to seal with")
        })
    }
}

/// What became of one worker.
enum Warmed {
    Queued,
    Ready,
    Failed,
    Skipped,
}

/// What is shown of a source, and what is not.
fn origin(source: ImageSource) -> (ImageOrigin, Option<RegistryAuth>) {
    match source {
        ImageSource::Oci { reference, registry_auth } => {
            let has_registry_auth = registry_auth.is_some();
            (ImageOrigin::Oci { reference, has_registry_auth }, registry_auth)
        }
        ImageSource::Tar { path, key } => (ImageOrigin::Tar { path, key }, None),
    }
}

fn busy(id: ImageId) -> Failure {
    let message = format!("image {id} was changed by others at the same time; try again");
    Failure::new(ErrorCode::RateLimited, message)
}

//! Availability groups.

use std::collections::BTreeSet;

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorCode,
    ids::{AvailabilityGroupId, ImageId, WorkerId},
    image::{AvailabilityGroup, CreateAvailabilityGroup},
    permission::Permission,
};

use super::Images;
use crate::{
    creation::{Created, Creation},
    domain::{actor::Actor, iam::check_name, violations::Violations},
    failure::Failure,
    iam::not_found,
    store::Removed,
};

impl Images {
    /// Makes a group without members.
    pub async fn create_group(
        &self,
        actor: &Actor,
        request: CreateAvailabilityGroup,
        key: Option<String>,
    ) -> Result<Created<AvailabilityGroup>, Failure> {
        actor.require_platform(Permission::Admin)?;
        let mut faults = Violations::default();
        check_name(&mut faults, Some(&request.name));
        faults.into_result()?;
        let begun =
            Creation::begin(&self.store, actor, key, "availability group", &request).await?;
        let creation = match begun {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let group = AvailabilityGroup {
            id: AvailabilityGroupId::generate(),
            name: request.name,
            is_default: false,
            worker_ids: Vec::new(),
            image_ids: Vec::new(),
            created_at: Timestamp::now(),
        };
        let key = creation.key(&group);
        let inserted = self.store.insert_availability_group(&group, key.as_ref()).await?;
        creation.finish(inserted, group, "name").await
    }

    /// The newest `limit` groups. Images that the caller does not see are left out.
    pub async fn groups(
        &self,
        actor: &Actor,
        before: Option<AvailabilityGroupId>,
        limit: usize,
    ) -> Result<Vec<AvailabilityGroup>, Failure> {
        actor.require_read(Permission::Create)?;
        let groups = self.store.list_availability_groups(before, limit).await?;
        let mut shown = Vec::new();
        for group in groups {
            shown.push(self.shown(actor, group).await?);
        }
        Ok(shown)
    }

    /// One group. Images that the caller does not see are left out.
    pub async fn group(
        &self,
        actor: &Actor,
        id: AvailabilityGroupId,
    ) -> Result<AvailabilityGroup, Failure> {
        actor.require_read(Permission::Create)?;
        self.shown(actor, self.existing_group(id).await?).await
    }

    async fn shown(
        &self,
        actor: &Actor,
        mut group: AvailabilityGroup,
    ) -> Result<AvailabilityGroup, Failure> {
        let filter = self.filter(actor).await?;
        let visible = self.store.list_images(&filter, None, None, usize::MAX).await?;
        group.image_ids.retain(|id| visible.iter().any(|record| record.image.id == *id));
        Ok(group)
    }

    async fn existing_group(&self, id: AvailabilityGroupId) -> Result<AvailabilityGroup, Failure> {
        let group = self.store.availability_group(id).await?;
        group.ok_or_else(|| not_found("availability group", id))
    }

    /// Deletes a group; its workers let go of what no other group has them keep.
    pub async fn delete_group(
        &self,
        actor: &Actor,
        id: AvailabilityGroupId,
    ) -> Result<(), Failure> {
        actor.require_platform(Permission::Admin)?;
        let group = self.existing_group(id).await?;
        if group.is_default {
            let message = "this is the default group: take its members out instead of deleting it";
            return Err(Failure::new(ErrorCode::InUse, message));
        }
        match self.store.delete_availability_group(id).await? {
            Removed::Done => self.let_go_of(&group.image_ids).await,
            _ => Err(not_found("availability group", id)),
        }
    }

    /// Has the group's workers keep an image.
    pub async fn add_image(
        &self,
        actor: &Actor,
        group: AvailabilityGroupId,
        image: ImageId,
    ) -> Result<AvailabilityGroup, Failure> {
        actor.require(Permission::ImagesManage)?;
        self.existing_group(group).await?;
        self.own_image(actor, image).await?;
        self.store.add_group_image(group, image).await?;
        self.nudge();
        self.group(actor, group).await
    }

    /// No longer has the group's workers keep an image.
    pub async fn remove_image(
        &self,
        actor: &Actor,
        group: AvailabilityGroupId,
        image: ImageId,
    ) -> Result<(), Failure> {
        actor.require(Permission::ImagesManage)?;
        self.existing_group(group).await?;
        self.own_image(actor, image).await?;
        self.store.remove_group_image(group, image).await?;
        self.let_go_of(&[image]).await
    }

    /// Has a worker keep the group's images.
    pub async fn add_worker(
        &self,
        actor: &Actor,
        group: AvailabilityGroupId,
        worker: WorkerId,
    ) -> Result<AvailabilityGroup, Failure> {
        actor.require_platform(Permission::Admin)?;
        self.existing_group(group).await?;
        self.existing_worker(worker)?;
        self.store.add_group_worker(group, worker).await?;
        self.nudge();
        self.group(actor, group).await
    }

    /// No longer has a worker keep the group's images.
    pub async fn remove_worker(
        &self,
        actor: &Actor,
        group: AvailabilityGroupId,
        worker: WorkerId,
    ) -> Result<(), Failure> {
        actor.require_platform(Permission::Admin)?;
        let images = self.existing_group(group).await?.image_ids;
        self.store.remove_group_worker(group, worker).await?;
        self.let_go_of(&images).await
    }

    /// Has workers forget images that none of their groups has any more.
    async fn let_go_of(&self, images: &[ImageId]) -> Result<(), Failure> {
        for image in images {
            let keepers = self.store.workers_of_image(*image).await?;
            // What was said to another controller is only in the rows.
            let rows = self.store.cache_rows(*image).await?;
            let written = rows.into_iter().map(|row| row.shown.worker_id);
            let said = self.fleet.reports_of(*image).into_iter().map(|(worker, _)| worker);
            let holders: BTreeSet<_> = written.chain(said).collect();
            for worker in holders.iter().filter(|worker| !keepers.contains(worker)) {
                self.let_go(*worker, *image).await?;
            }
        }
        Ok(())
    }

    fn existing_worker(&self, id: WorkerId) -> Result<(), Failure> {
        match self.fleet.record(id) {
            Some(_) => Ok(()),
            None => Err(not_found("worker", id)),
        }
    }
}

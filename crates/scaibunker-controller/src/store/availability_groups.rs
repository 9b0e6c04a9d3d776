//! Availability groups: which workers keep which images.

use jiff::Timestamp;
use scaibunker_api::{
    ids::{AvailabilityGroupId, ImageId, WorkerId},
    image::AvailabilityGroup,
};

use super::{
    IdempotencyKey, Inserted, Removed, Store, StoreError, from_micros, parsed, select::Select,
    to_micros,
};

#[derive(sqlx::FromRow)]
struct GroupRow {
    id: String,
    name: String,
    is_default: i64,
    created_at: i64,
}

#[derive(sqlx::FromRow)]
struct Member {
    group_id: String,
    member_id: String,
}

/// A kind of member: its table, and how it is added and taken out.
struct Membership {
    select: &'static str,
    insert: &'static str,
    delete: &'static str,
}

const IMAGES: Membership = Membership {
    select: "SELECT group_id, image_id AS member_id FROM availability_group_images WHERE group_id",
    insert: "INSERT INTO availability_group_images (group_id, image_id) VALUES ($1, $2) \
             ON CONFLICT DO NOTHING",
    delete: "DELETE FROM availability_group_images WHERE group_id = $1 AND image_id = $2",
};

const WORKERS: Membership = Membership {
    select: "SELECT group_id, worker_id AS member_id FROM availability_group_workers WHERE group_id",
    insert: "INSERT INTO availability_group_workers (group_id, worker_id) VALUES ($1, $2) \
             ON CONFLICT DO NOTHING",
    delete: "DELETE FROM availability_group_workers WHERE group_id = $1 AND worker_id = $2",
};

impl Store {
    /// Makes the group that everything is put into, if there is none.
    pub async fn ensure_default_group(&self, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO availability_groups (id, name, is_default, created_at) \
             VALUES ($1, 'default', 1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(AvailabilityGroupId::generate().to_string())
        .bind(to_micros(at))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("make the default availability group"))?;
        Ok(())
    }

    /// Puts a worker that is new into the default group. One that was taken out stays out.
    pub async fn welcome_worker(&self, worker_id: WorkerId) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO availability_group_workers (group_id, worker_id) \
             SELECT id, $1 FROM availability_groups WHERE is_default = 1 ON CONFLICT DO NOTHING",
        )
        .bind(worker_id.to_string())
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("put a worker into the default group"))?;
        Ok(())
    }

    /// Writes a new group down, together with the idempotency key of its request.
    pub async fn insert_availability_group(
        &self,
        group: &AvailabilityGroup,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert an availability group");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO availability_groups (id, name, is_default, created_at) \
             VALUES ($1, $2, 0, $3) ON CONFLICT DO NOTHING",
        )
        .bind(group.id.to_string())
        .bind(&group.name)
        .bind(to_micros(group.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let id = group.id.to_string();
        self.finish_insert(transaction, done, key, &id, group.created_at).await
    }

    /// One group with its members.
    pub async fn availability_group(
        &self,
        id: AvailabilityGroupId,
    ) -> Result<Option<AvailabilityGroup>, StoreError> {
        let mut select = Select::new("SELECT * FROM availability_groups WHERE id = ");
        select.bind(id.to_string());
        Ok(self.groups_with_members(select).await?.pop())
    }

    /// The newest `limit` groups made before `before`.
    pub async fn list_availability_groups(
        &self,
        before: Option<AvailabilityGroupId>,
        limit: usize,
    ) -> Result<Vec<AvailabilityGroup>, StoreError> {
        let mut select = Select::new("SELECT * FROM availability_groups WHERE 1 = 1");
        select.page(before, limit);
        self.groups_with_members(select).await
    }

    async fn groups_with_members(
        &self,
        select: Select,
    ) -> Result<Vec<AvailabilityGroup>, StoreError> {
        let rows: Vec<GroupRow> =
            select.fetch_all(&self.readers, "read availability groups").await?;
        let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
        let (images, workers) =
            (self.members(&IMAGES, &ids).await?, self.members(&WORKERS, &ids).await?);
        let group = |row: GroupRow| {
            let of_group = |members: &'_ [Member]| -> Vec<String> {
                let of_group = members.iter().filter(|member| member.group_id == row.id);
                of_group.map(|member| member.member_id.clone()).collect()
            };
            let image = |id: &String| parsed("availability_group_images.image_id", id);
            let worker = |id: &String| parsed("availability_group_workers.worker_id", id);
            Ok(AvailabilityGroup {
                image_ids: of_group(&images)
                    .iter()
                    .map(image)
                    .collect::<Result<_, StoreError>>()?,
                worker_ids: of_group(&workers)
                    .iter()
                    .map(worker)
                    .collect::<Result<_, StoreError>>()?,
                id: parsed("availability_groups.id", &row.id)?,
                is_default: row.is_default != 0,
                created_at: from_micros("availability_groups.created_at", row.created_at)?,
                name: row.name,
            })
        };
        rows.into_iter().map(group).collect()
    }

    async fn members(&self, of: &Membership, groups: &[String]) -> Result<Vec<Member>, StoreError> {
        let mut select = Select::new(of.select);
        select.within(groups.iter().cloned()).push(" ORDER BY member_id");
        select.fetch_all(&self.readers, "read members of availability groups").await
    }

    /// Deletes a group with its memberships.
    pub async fn delete_availability_group(
        &self,
        id: AvailabilityGroupId,
    ) -> Result<Removed, StoreError> {
        let failed = || StoreError::query("delete an availability group");
        let id = id.to_string();
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        for statement in [
            "DELETE FROM availability_group_images WHERE group_id = $1",
            "DELETE FROM availability_group_workers WHERE group_id = $1",
        ] {
            let gone = sqlx::query(statement).bind(&id).execute(&mut *transaction).await;
            gone.map_err(failed())?;
        }
        let done = sqlx::query("DELETE FROM availability_groups WHERE id = $1 AND is_default = 0")
            .bind(&id)
            .execute(&mut *transaction)
            .await;
        let removed = Removed::of(done, "members", "delete an availability group")?;
        if removed == Removed::Done {
            transaction.commit().await.map_err(failed())?;
        }
        Ok(removed)
    }

    /// Puts an image into a group; no error if it is in it.
    pub async fn add_group_image(
        &self,
        group: AvailabilityGroupId,
        image: ImageId,
    ) -> Result<(), StoreError> {
        self.change_membership(IMAGES.insert, group, image.to_string()).await
    }

    /// Takes an image out of a group; no error if it is not in it.
    pub async fn remove_group_image(
        &self,
        group: AvailabilityGroupId,
        image: ImageId,
    ) -> Result<(), StoreError> {
        self.change_membership(IMAGES.delete, group, image.to_string()).await
    }

    /// Puts a worker into a group; no error if it is in it.
    pub async fn add_group_worker(
        &self,
        group: AvailabilityGroupId,
        worker: WorkerId,
    ) -> Result<(), StoreError> {
        self.change_membership(WORKERS.insert, group, worker.to_string()).await
    }

    /// Takes a worker out of a group; no error if it is not in it.
    pub async fn remove_group_worker(
        &self,
        group: AvailabilityGroupId,
        worker: WorkerId,
    ) -> Result<(), StoreError> {
        self.change_membership(WORKERS.delete, group, worker.to_string()).await
    }

    async fn change_membership(
        &self,
        statement: &'static str,
        group: AvailabilityGroupId,
        member: String,
    ) -> Result<(), StoreError> {
        sqlx::query(statement)
            .bind(group.to_string())
            .bind(member)
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("change an availability group"))?;
        Ok(())
    }

    /// The workers that shall keep an image.
    pub async fn workers_of_image(&self, image: ImageId) -> Result<Vec<WorkerId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT DISTINCT gw.worker_id FROM availability_group_images gi \
             JOIN availability_group_workers gw ON gw.group_id = gi.group_id \
             WHERE gi.image_id = $1 ORDER BY gw.worker_id",
        )
        .bind(image.to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(StoreError::query("read an image's workers"))?;
        rows.iter().map(|(id,)| parsed("availability_group_workers.worker_id", id)).collect()
    }
}

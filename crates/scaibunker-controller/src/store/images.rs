//! Images.

use scaibunker_api::{
    ids::{ImageId, PartnerId, TenantId},
    image::{
        DEFAULT_SIZE_MIB, Image, ImageOrigin, ImageScope, ImageStatus, RootConfig, ScanStatus,
    },
    worker::ReadyImage,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    IdempotencyKey, Inserted, Store, StoreError, Updated, from_json, from_micros, parsed,
    select::Select,
    to_json, to_micros,
    workers::{signed, unsigned},
};
use crate::domain::image::ImageRecord;

/// Whose images are looked for.
#[derive(Debug, Clone)]
pub enum ImageFilter {
    Everything,
    /// The platform's, the partner's and those of the partner's tenants.
    Partner(PartnerId),
    /// The platform's, the partner's and the tenant's own.
    Tenant(TenantId, PartnerId),
}

/// The column `source` of an image that workers bring along.
const BUILT_IN: &str = r#"{"kind":"built_in"}"#;

#[derive(sqlx::FromRow)]
pub(super) struct ImageRow {
    id: String,
    name: String,
    scope: String,
    tenant_id: Option<String>,
    partner_id: Option<String>,
    created_by: Option<String>,
    created_at: i64,
    generation: i64,
    source: String,
    registry_auth: Option<String>,
    status: String,
    status_reason: Option<String>,
    digest: Option<String>,
    manifest_digest: Option<String>,
    stored_key: Option<String>,
    size_bytes: Option<i64>,
    size_mib: i64,
    default_cpu_millicores: i64,
    default_memory_mb: i64,
    default_disk_mb: i64,
    lazy_pull: i64,
    entrypoint_env: String,
    config: Option<String>,
    baker_id: Option<String>,
    scan_status: Option<String>,
}

/// The columns of an [`ImageRow`].
pub(super) const IMAGES: &str = "SELECT images.*, \
     (SELECT status FROM image_scans WHERE image_scans.image_id = images.id) AS scan_status \
     FROM images";

impl TryFrom<ImageRow> for ImageRecord {
    type Error = StoreError;

    fn try_from(row: ImageRow) -> Result<Self, StoreError> {
        let image = Image {
            id: parsed("images.id", &row.id)?,
            name: row.name,
            scope: from_word("images.scope", &row.scope)?,
            tenant_id: row.tenant_id.map(|id| parsed("images.tenant_id", &id)).transpose()?,
            partner_id: row.partner_id.map(|id| parsed("images.partner_id", &id)).transpose()?,
            created_by: row.created_by.map(|id| parsed("images.created_by", &id)).transpose()?,
            created_at: from_micros("images.created_at", row.created_at)?,
            source: from_json("images.source", &row.source)?,
            status: from_word("images.status", &row.status)?,
            status_reason: row.status_reason,
            digest: row.digest,
            manifest_digest: row.manifest_digest,
            size_bytes: row
                .size_bytes
                .map(|bytes| unsigned("images.size_bytes", bytes))
                .transpose()?,
            size_mib: unsigned("images.size_mib", row.size_mib)?,
            default_cpu_millicores: unsigned(
                "images.default_cpu_millicores",
                row.default_cpu_millicores,
            )?,
            default_memory_mb: unsigned("images.default_memory_mb", row.default_memory_mb)?,
            default_disk_mb: unsigned("images.default_disk_mb", row.default_disk_mb)?,
            lazy_pull: row.lazy_pull != 0,
            entrypoint_env: from_json("images.entrypoint_env", &row.entrypoint_env)?,
            config: row.config.map(|json| from_json("images.config", &json)).transpose()?,
            scan_status: match row.scan_status {
                Some(status) => from_word("image_scans.status", &status)?,
                None if row.source == BUILT_IN => ScanStatus::Skipped,
                None => ScanStatus::Pending,
            },
        };
        Ok(Self {
            image,
            generation: row.generation,
            registry_auth: row.registry_auth,
            stored_key: row.stored_key,
            baker_id: row.baker_id.map(|id| parsed("images.baker_id", &id)).transpose()?,
        })
    }
}

/// A value of an enumeration as it is on the wire.
pub(super) fn to_word<T: Serialize>(column: &'static str, value: &T) -> Result<String, StoreError> {
    match serde_json::to_value(value).map_err(StoreError::corrupt(column))? {
        serde_json::Value::String(word) => Ok(word),
        other => Err(StoreError::corrupt(column)(other)),
    }
}

pub(super) fn from_word<T: DeserializeOwned>(
    column: &'static str,
    word: &str,
) -> Result<T, StoreError> {
    serde_json::from_value(word.into()).map_err(StoreError::corrupt(column))
}

impl Store {
    /// Gives each image that workers bring along a record; one that has a record already (same
    /// name and digest) keeps its id.
    pub async fn put_built_in_images(
        &self,
        images: &[ReadyImage],
        at: jiff::Timestamp,
    ) -> Result<Vec<Image>, StoreError> {
        let failed = || StoreError::query("store images");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let mut ids: Vec<Option<ImageId>> = vec![None; images.len()];
        // In one order everywhere: workers that register the same images do not wait in a circle.
        let mut order: Vec<_> = images.iter().zip(&mut ids).collect();
        order.sort_unstable_by_key(|(image, _)| (&image.name, &image.digest));
        for (image, id) in order {
            let (stored,): (String,) = sqlx::query_as(
                "INSERT INTO images (id, name, scope, created_at, source, status, digest, \
                 size_bytes, size_mib, default_cpu_millicores, default_memory_mb, \
                 default_disk_mb, config) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
                 ON CONFLICT (name, digest) WHERE source = '{\"kind\":\"built_in\"}' \
                 DO UPDATE SET size_bytes = excluded.size_bytes, \
                 default_cpu_millicores = excluded.default_cpu_millicores, \
                 default_memory_mb = excluded.default_memory_mb, \
                 default_disk_mb = excluded.default_disk_mb, config = excluded.config \
                 RETURNING id",
            )
            .bind(ImageId::generate().to_string())
            .bind(&image.name)
            .bind(to_word("images.scope", &ImageScope::Platform)?)
            .bind(to_micros(at))
            .bind(BUILT_IN)
            .bind(to_word("images.status", &ImageStatus::Ready)?)
            .bind(&image.digest)
            .bind(signed(image.size_bytes))
            .bind(i64::from(DEFAULT_SIZE_MIB))
            .bind(i64::from(image.default_cpu_millicores))
            .bind(i64::from(image.default_memory_mb))
            .bind(i64::from(image.default_disk_mb))
            .bind(to_json::<RootConfig>("images.config", &image.config)?)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed())?;
            *id = Some(parsed("images.id", &stored)?);
        }
        transaction.commit().await.map_err(failed())?;
        let records = self.built_in_images().await?;
        let of_id = |id| records.iter().find(|image| Some(image.id) == id).cloned();
        Ok(ids.into_iter().filter_map(of_id).collect())
    }

    /// Every image that ever came with a worker.
    pub async fn built_in_images(&self) -> Result<Vec<Image>, StoreError> {
        debug_assert_eq!(
            serde_json::to_string(&ImageOrigin::BuiltIn).ok().as_deref(),
            Some(BUILT_IN)
        );
        let mut select = Select::new(IMAGES);
        select.push(" WHERE source = ").bind(BUILT_IN).push(" ORDER BY images.id");
        let rows: Vec<ImageRow> = select.fetch_all(&self.readers, "read the images").await?;
        rows.into_iter().map(|row| Ok(ImageRecord::try_from(row)?.image)).collect()
    }

    /// Writes a new image down, together with the idempotency key of its request; it is put into
    /// the default availability group.
    pub async fn insert_image(
        &self,
        record: &ImageRecord,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert an image");
        let image = &record.image;
        let id = image.id.to_string();
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO images (id, name, scope, tenant_id, partner_id, created_by, created_at, \
             source, registry_auth, status, size_mib, default_cpu_millicores, default_memory_mb, \
             default_disk_mb, lazy_pull, entrypoint_env) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
             ON CONFLICT DO NOTHING",
        )
        .bind(&id)
        .bind(&image.name)
        .bind(to_word("images.scope", &image.scope)?)
        .bind(image.tenant_id.map(|id| id.to_string()))
        .bind(image.partner_id.map(|id| id.to_string()))
        .bind(image.created_by.map(|id| id.to_string()))
        .bind(to_micros(image.created_at))
        .bind(to_json("images.source", &image.source)?)
        .bind(record.registry_auth.as_deref())
        .bind(to_word("images.status", &image.status)?)
        .bind(i64::from(image.size_mib))
        .bind(i64::from(image.default_cpu_millicores))
        .bind(i64::from(image.default_memory_mb))
        .bind(i64::from(image.default_disk_mb))
        .bind(i64::from(image.lazy_pull))
        .bind(to_json("images.entrypoint_env", &image.entrypoint_env)?)
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        if done.rows_affected() > 0 {
            sqlx::query(
                "INSERT INTO availability_group_images (group_id, image_id) \
                 SELECT id, $1 FROM availability_groups WHERE is_default = 1",
            )
            .bind(&id)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        }
        self.finish_insert(transaction, done, key, &id, image.created_at).await
    }

    /// One image that is not deleted.
    pub async fn image(&self, id: ImageId) -> Result<Option<ImageRecord>, StoreError> {
        let mut select = Select::new(IMAGES);
        select.push(" WHERE deleted_at IS NULL AND images.id = ").bind(id.to_string());
        let rows: Vec<ImageRow> = select.fetch_all(&self.readers, "read an image").await?;
        rows.into_iter().next().map(ImageRecord::try_from).transpose()
    }

    /// The newest `limit` images made before `before`.
    pub async fn list_images(
        &self,
        filter: &ImageFilter,
        name: Option<&str>,
        before: Option<ImageId>,
        limit: usize,
    ) -> Result<Vec<ImageRecord>, StoreError> {
        let mut select = Select::new(IMAGES);
        select.push(" WHERE deleted_at IS NULL");
        match filter {
            ImageFilter::Everything => {}
            ImageFilter::Partner(partner) => {
                let partner = partner.to_string();
                select
                    .push(" AND (scope = 'platform' OR partner_id = ")
                    .bind(partner.clone())
                    .push(" OR tenant_id IN (SELECT id FROM tenants WHERE partner_id = ")
                    .bind(partner)
                    .push("))");
            }
            ImageFilter::Tenant(tenant, partner) => {
                select
                    .push(" AND (scope = 'platform' OR partner_id = ")
                    .bind(partner.to_string())
                    .push(" OR tenant_id = ")
                    .bind(tenant.to_string())
                    .push(")");
            }
        }
        if let Some(name) = name {
            select.push(" AND name = ").bind(name);
        }
        if let Some(before) = before {
            select.push(" AND images.id < ").bind(before.to_string());
        }
        select.push(" ORDER BY images.id DESC").limit(limit);
        let rows: Vec<ImageRow> = select.fetch_all(&self.readers, "list images").await?;
        rows.into_iter().map(ImageRecord::try_from).collect()
    }

    /// Writes a changed image down, if nobody changed it since it was read. One that has become
    /// ready waits for its scan from then on.
    pub async fn update_image(&self, record: &ImageRecord) -> Result<Updated, StoreError> {
        let failed = || StoreError::query("update an image");
        let image = &record.image;
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "UPDATE images SET name = $3, generation = $4, source = $5, registry_auth = $6, \
             status = $7, status_reason = $8, digest = $9, manifest_digest = $10, \
             stored_key = $11, baker_id = $12, size_bytes = $13, default_cpu_millicores = $14, \
             default_memory_mb = $15, default_disk_mb = $16, lazy_pull = $17, \
             entrypoint_env = $18, config = $19 \
             WHERE id = $1 AND generation = $2 AND deleted_at IS NULL",
        )
        .bind(image.id.to_string())
        .bind(record.generation - 1)
        .bind(&image.name)
        .bind(record.generation)
        .bind(to_json("images.source", &image.source)?)
        .bind(record.registry_auth.as_deref())
        .bind(to_word("images.status", &image.status)?)
        .bind(image.status_reason.as_deref().map(super::storable))
        .bind(image.digest.as_deref().map(super::storable))
        .bind(image.manifest_digest.as_deref().map(super::storable))
        .bind(record.stored_key.as_deref().map(super::storable))
        .bind(record.baker_id.map(|id| id.to_string()))
        .bind(image.size_bytes.map(signed))
        .bind(i64::from(image.default_cpu_millicores))
        .bind(i64::from(image.default_memory_mb))
        .bind(i64::from(image.default_disk_mb))
        .bind(i64::from(image.lazy_pull))
        .bind(to_json("images.entrypoint_env", &image.entrypoint_env)?)
        .bind(image.config.as_ref().map(|config| to_json("images.config", config)).transpose()?)
        .execute(&mut *transaction)
        .await;
        let updated = Updated::of(done, "update an image")?;
        if updated == Updated::Done && image.status == ImageStatus::Ready {
            sqlx::query(
                "INSERT INTO image_scans (image_id, status, requested_at) VALUES ($1, $2, $3) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(image.id.to_string())
            .bind(to_word("image_scans.status", &ScanStatus::Pending)?)
            .bind(to_micros(jiff::Timestamp::now()))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        }
        if updated == Updated::Done {
            transaction.commit().await.map_err(failed())?;
        }
        Ok(updated)
    }

    /// Marks an image as deleted; its rows and memberships go.
    pub async fn delete_image(
        &self,
        id: ImageId,
        at: jiff::Timestamp,
    ) -> Result<Updated, StoreError> {
        let failed = || StoreError::query("delete an image");
        let id = id.to_string();
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "UPDATE images SET deleted_at = $2, registry_auth = NULL, generation = generation + 1 \
             WHERE id = $1 AND deleted_at IS NULL",
        )
        .bind(&id)
        .bind(to_micros(at))
        .execute(&mut *transaction)
        .await;
        let updated = Updated::of(done, "delete an image")?;
        for statement in [
            "DELETE FROM image_cache WHERE image_id = $1",
            "DELETE FROM availability_group_images WHERE image_id = $1",
            "DELETE FROM image_scans WHERE image_id = $1",
        ] {
            let gone = sqlx::query(statement).bind(&id).execute(&mut *transaction).await;
            gone.map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())?;
        Ok(updated)
    }

    /// Whether an image that is not deleted has the same source.
    pub async fn is_source_in_use(&self, image: &Image) -> Result<bool, StoreError> {
        let mut select = Select::new(IMAGES);
        select
            .push(" WHERE deleted_at IS NULL AND images.id <> ")
            .bind(image.id.to_string())
            .push(" AND source = ")
            .bind(to_json("images.source", &image.source)?)
            .limit(1);
        let rows: Vec<ImageRow> = select.fetch_all(&self.readers, "read the images").await?;
        Ok(!rows.is_empty())
    }

    /// The images about which something may have to be done: those that are not baked, and those
    /// that a worker of their groups has neither got nor refused.
    pub async fn images_to_fan_out(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let mut select = Select::new(IMAGES);
        select
            .push(" WHERE deleted_at IS NULL AND source <> ")
            .bind(BUILT_IN)
            .push(
                " AND (images.status IN ('pending', 'baking') \
                 OR (images.status = 'ready' AND lazy_pull = 0 AND EXISTS (\
                 SELECT 1 FROM availability_group_images gi \
                 JOIN availability_group_workers gw ON gw.group_id = gi.group_id \
                 LEFT JOIN image_cache c ON c.image_id = gi.image_id AND c.worker_id = gw.worker_id \
                 WHERE gi.image_id = images.id \
                 AND (c.status IS NULL OR (c.status = 'pending' AND c.cause IS NULL)))))",
            )
            .push(" ORDER BY images.id");
        let rows: Vec<ImageRow> = select.fetch_all(&self.readers, "read the images").await?;
        rows.into_iter().map(ImageRecord::try_from).collect()
    }
}

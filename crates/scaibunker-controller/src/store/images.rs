//! Images.

use scaibunker_api::{
    ids::ImageId,
    image::{
        DEFAULT_SIZE_MIB, Image, ImageOrigin, ImageScope, ImageStatus, RootConfig, ScanStatus,
    },
    worker::ReadyImage,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Store, StoreError, from_json, from_micros, parsed, to_json, to_micros,
    workers::{signed, unsigned},
};
use crate::domain::image::ImageRecord;

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
    scan_status: Option<String>,
}

/// The columns of an [`ImageRow`].
pub(super) const IMAGES: &str = "SELECT images.*, \
     (SELECT status FROM image_scans WHERE image_scans.image_id = images.id) AS scan_status \
     FROM images";

impl TryFrom<ImageRow> for ImageRecord {
    type Error = StoreError;

    fn try_from(row: ImageRow) -> Result<Self, StoreError> {
        let optional =
            |column, text: Option<String>| text.map(|text| parsed(column, &text)).transpose();
        let image = Image {
            id: parsed("images.id", &row.id)?,
            name: row.name,
            scope: from_word("images.scope", &row.scope)?,
            tenant_id: row.tenant_id.map(|id| parsed("images.tenant_id", &id)).transpose()?,
            partner_id: row.partner_id.map(|id| parsed("images.partner_id", &id)).transpose()?,
            created_by: optional("images.created_by", row.created_by)?,
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
                None => ScanStatus::Pending,
            },
        };
        Ok(Self {
            image,
            generation: row.generation,
            registry_auth: row.registry_auth,
            stored_key: row.stored_key,
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
        let mut select = super::select::Select::new(IMAGES);
        select.push(" WHERE source = ").bind(BUILT_IN).push(" ORDER BY images.id");
        let rows: Vec<ImageRow> = select.fetch_all(&self.readers, "read the images").await?;
        rows.into_iter().map(|row| Ok(ImageRecord::try_from(row)?.image)).collect()
    }
}

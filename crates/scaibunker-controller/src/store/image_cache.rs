//! What workers have of images.

use scaibunker_api::{
    ids::{ImageId, WorkerId},
    image::{CacheStatus, ImageCacheRow},
    worker::{ImageFaultCause, ImageReport},
};

use super::{
    Store, StoreError, from_micros,
    images::{from_word, to_word},
    parsed,
    select::Select,
    storable, to_micros,
    workers::{signed, unsigned},
};

/// What a worker last said of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRow {
    pub image_id: ImageId,
    pub shown: ImageCacheRow,
    pub cause: Option<ImageFaultCause>,
}

#[derive(sqlx::FromRow)]
struct Row {
    image_id: String,
    worker_id: String,
    status: String,
    progress: i64,
    cause: Option<String>,
    error: Option<String>,
    size_bytes: Option<i64>,
    updated_at: i64,
}

impl TryFrom<Row> for CacheRow {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            image_id: parsed("image_cache.image_id", &row.image_id)?,
            shown: ImageCacheRow {
                worker_id: parsed("image_cache.worker_id", &row.worker_id)?,
                status: from_word::<CacheStatus>("image_cache.status", &row.status)?,
                progress: unsigned("image_cache.progress", row.progress)?,
                error: row.error,
                size_bytes: row
                    .size_bytes
                    .map(|bytes| unsigned("image_cache.size_bytes", bytes))
                    .transpose()?,
                updated_at: from_micros("image_cache.updated_at", row.updated_at)?,
            },
            cause: row.cause.map(|word| from_word("image_cache.cause", &word)).transpose()?,
        })
    }
}

impl Store {
    /// Writes down what a worker says of an image, unless it said something newer.
    pub async fn put_cache_row(
        &self,
        worker_id: WorkerId,
        report: &ImageReport,
    ) -> Result<(), StoreError> {
        let fault = report.error.as_ref();
        sqlx::query(
            "INSERT INTO image_cache (image_id, worker_id, status, progress, cause, error, \
             size_bytes, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (image_id, worker_id) DO UPDATE SET status = excluded.status, \
             progress = excluded.progress, cause = excluded.cause, error = excluded.error, \
             size_bytes = excluded.size_bytes, updated_at = excluded.updated_at \
             WHERE excluded.updated_at >= image_cache.updated_at",
        )
        .bind(report.image_id.to_string())
        .bind(worker_id.to_string())
        .bind(to_word("image_cache.status", &report.status)?)
        .bind(i64::from(report.progress))
        .bind(fault.map(|fault| to_word("image_cache.cause", &fault.cause)).transpose()?)
        .bind(fault.map(|fault| storable(&fault.message)))
        .bind(report.size_bytes.map(signed))
        .bind(to_micros(report.updated_at))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("store what a worker has of an image"))?;
        Ok(())
    }

    /// What the workers said of an image.
    pub async fn cache_rows(&self, image_id: ImageId) -> Result<Vec<CacheRow>, StoreError> {
        let mut select = Select::new("SELECT * FROM image_cache WHERE image_id = ");
        select.bind(image_id.to_string()).push(" ORDER BY worker_id");
        let rows: Vec<Row> =
            select.fetch_all(&self.readers, "read what workers have of an image").await?;
        rows.into_iter().map(CacheRow::try_from).collect()
    }

    /// Forgets that a worker had, or was getting, images other than these. What it let go or could
    /// not get stays so until somebody asks for it.
    pub async fn keep_cache_rows(
        &self,
        worker_id: WorkerId,
        images: &[ImageId],
    ) -> Result<(), StoreError> {
        let mut select = Select::new("SELECT * FROM image_cache WHERE worker_id = ");
        select.bind(worker_id.to_string());
        let rows: Vec<Row> =
            select.fetch_all(&self.readers, "read what a worker has of images").await?;
        let is_gone = |row: &&Row| {
            row.cause.is_none() && !images.iter().any(|id| id.to_string() == row.image_id)
        };
        for row in rows.iter().filter(is_gone) {
            let image_id = parsed("image_cache.image_id", &row.image_id)?;
            self.forget_cache_row(worker_id, image_id).await?;
        }
        Ok(())
    }

    /// Forgets what a worker said of an image.
    pub async fn forget_cache_row(
        &self,
        worker_id: WorkerId,
        image_id: ImageId,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM image_cache WHERE worker_id = $1 AND image_id = $2")
            .bind(worker_id.to_string())
            .bind(image_id.to_string())
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("forget what a worker has of an image"))?;
        Ok(())
    }

    /// Forgets which workers could not get an image.
    pub async fn forget_failures(&self, image_id: ImageId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM image_cache WHERE image_id = $1 AND status = $2")
            .bind(image_id.to_string())
            .bind(to_word("image_cache.status", &CacheStatus::Failed)?)
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("forget who failed with an image"))?;
        Ok(())
    }
}

//! Scans of images.

use jiff::Timestamp;
use scaibunker_api::{
    ids::ImageId,
    image::{ImageScan, ScanStatus, SeverityCounts},
};

use super::{
    Store, StoreError, from_json, from_micros,
    images::{from_word, to_word},
    parsed,
    select::Select,
    storable, to_json, to_micros,
};
use crate::domain::scan::ScanOutcome;

/// The right to run a scan, until it is over or was not renewed in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLease {
    pub image_id: ImageId,
    until: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Row {
    image_id: String,
    status: String,
    message: Option<String>,
    scanner: Option<String>,
    counts: String,
    findings: String,
    truncated: i64,
    requested_at: i64,
    finished_at: Option<i64>,
}

impl TryFrom<Row> for ImageScan {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let finished = |micros| from_micros("image_scans.finished_at", micros);
        Ok(Self {
            image_id: parsed("image_scans.image_id", &row.image_id)?,
            status: from_word("image_scans.status", &row.status)?,
            message: row.message,
            scanner: row.scanner,
            counts: from_json("image_scans.counts", &row.counts)?,
            findings: from_json("image_scans.findings", &row.findings)?,
            truncated: row.truncated != 0,
            requested_at: Some(from_micros("image_scans.requested_at", row.requested_at)?),
            finished_at: row.finished_at.map(finished).transpose()?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct Waiting {
    image_id: String,
}

impl Store {
    /// What is known of an image's faults; `None` if nobody asked yet.
    pub async fn scan(&self, image_id: ImageId) -> Result<Option<ImageScan>, StoreError> {
        let mut select = Select::new(
            "SELECT image_id, status, message, scanner, counts, findings, truncated, \
             requested_at, finished_at FROM image_scans WHERE image_id = ",
        );
        select.bind(image_id.to_string());
        let rows: Vec<Row> = select.fetch_all(&self.readers, "read a scan").await?;
        rows.into_iter().next().map(ImageScan::try_from).transpose()
    }

    /// Has an image scanned, unless that is being done.
    pub async fn request_scan(&self, image_id: ImageId, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO image_scans (image_id, status, requested_at, counts) \
             VALUES ($1, $2, $3, $4) \
             ON CONFLICT (image_id) DO UPDATE SET status = excluded.status, \
             requested_at = excluded.requested_at, counts = excluded.counts, findings = '[]', \
             truncated = 0, message = NULL, scanner = NULL, finished_at = NULL, \
             lease_until = NULL \
             WHERE image_scans.lease_until IS NULL \
             OR image_scans.lease_until < excluded.requested_at",
        )
        .bind(image_id.to_string())
        .bind(to_word("image_scans.status", &ScanStatus::Pending)?)
        .bind(to_micros(at))
        .bind(to_json("image_scans.counts", &SeverityCounts::default())?)
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("ask for a scan"))?;
        Ok(())
    }

    /// Takes the scan that has waited longest, or one whose scanner did not renew its lease.
    pub async fn take_scan(
        &self,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<ScanLease>, StoreError> {
        let (pending, running) = (ScanStatus::Pending, ScanStatus::Running);
        loop {
            let mut select = Select::new("SELECT image_id FROM image_scans WHERE status = ");
            select
                .bind(to_word("image_scans.status", &pending)?)
                .push(" OR (status = ")
                .bind(to_word("image_scans.status", &running)?)
                .push(" AND lease_until < ")
                .bind(to_micros(now))
                .push(") ORDER BY requested_at")
                .limit(1);
            let rows: Vec<Waiting> = select.fetch_all(&self.readers, "look for scans").await?;
            let Some(row) = rows.into_iter().next() else { return Ok(None) };
            let taken = sqlx::query(
                "UPDATE image_scans SET status = $2, lease_until = $3 WHERE image_id = $1 \
                 AND (status = $4 OR (status = $2 AND lease_until < $5))",
            )
            .bind(&row.image_id)
            .bind(to_word("image_scans.status", &running)?)
            .bind(to_micros(until))
            .bind(to_word("image_scans.status", &pending)?)
            .bind(to_micros(now))
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("take a scan"))?;
            // Else another controller was quicker; there may be more.
            if taken.rows_affected() > 0 {
                let image_id = parsed("image_scans.image_id", &row.image_id)?;
                return Ok(Some(ScanLease { image_id, until }));
            }
        }
    }

    /// Keeps a scan for longer; `None` if it is another's by now.
    pub async fn renew_scan(
        &self,
        lease: ScanLease,
        until: Timestamp,
    ) -> Result<Option<ScanLease>, StoreError> {
        let renewed = sqlx::query(
            "UPDATE image_scans SET lease_until = $3 WHERE image_id = $1 AND lease_until = $2",
        )
        .bind(lease.image_id.to_string())
        .bind(to_micros(lease.until))
        .bind(to_micros(until))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("renew the lease of a scan"))?;
        Ok((renewed.rows_affected() > 0).then_some(ScanLease { until, ..lease }))
    }

    /// Writes down what a scan found, or why it failed, unless it is another's by now.
    pub async fn finish_scan(
        &self,
        lease: ScanLease,
        outcome: Result<ScanOutcome, String>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (status, message) = match &outcome {
            Err(message) => (ScanStatus::Failed, Some(storable(message))),
            Ok(outcome) if outcome.findings.is_empty() => (ScanStatus::Clean, None),
            Ok(_) => (ScanStatus::Vulnerable, None),
        };
        let outcome = outcome.ok();
        let counts = outcome.as_ref().map(|outcome| outcome.counts).unwrap_or_default();
        let findings = outcome.as_ref().map(|outcome| &outcome.findings[..]).unwrap_or_default();
        sqlx::query(
            "UPDATE image_scans SET status = $3, message = $4, scanner = $5, counts = $6, \
             findings = $7, truncated = $8, finished_at = $9, lease_until = NULL \
             WHERE image_id = $1 AND lease_until = $2",
        )
        .bind(lease.image_id.to_string())
        .bind(to_micros(lease.until))
        .bind(to_word("image_scans.status", &status)?)
        .bind(message)
        .bind(outcome.as_ref().map(|outcome| storable(&outcome.scanner)))
        .bind(to_json("image_scans.counts", &counts)?)
        .bind(storable(&to_json("image_scans.findings", &findings)?))
        .bind(i64::from(outcome.as_ref().is_some_and(|outcome| outcome.truncated)))
        .bind(to_micros(at))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("write a scan's result down"))?;
        Ok(())
    }
}

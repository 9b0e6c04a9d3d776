//! Images, as tables.

use comfy_table::Table;
use jiff::Timestamp;
use scaibunker_api::image::{
    CacheStatus, Image, ImageCacheRow, ImageOrigin, ImageScope, ImageStatus, ScanStatus,
};

use super::{ago, cores, fields, mib, or_dash, table, time};

/// The word of an image's status.
pub fn image_status(status: ImageStatus) -> &'static str {
    match status {
        ImageStatus::Pending => "pending",
        ImageStatus::Baking => "baking",
        ImageStatus::Ready => "ready",
        ImageStatus::Failed => "failed",
    }
}

/// The word of a worker's part in it.
pub fn cache_status(status: CacheStatus) -> &'static str {
    match status {
        CacheStatus::Pending => "pending",
        CacheStatus::Pulling => "pulling",
        CacheStatus::Baking => "baking",
        CacheStatus::Ready => "ready",
        CacheStatus::Failed => "failed",
    }
}

fn scope(scope: ImageScope) -> &'static str {
    match scope {
        ImageScope::Tenant => "tenant",
        ImageScope::Partner => "partner",
        ImageScope::Platform => "platform",
    }
}

fn scan(image: &Image) -> &'static str {
    match image.scan_status {
        _ if image.source == ImageOrigin::BuiltIn => "-",
        ScanStatus::Pending => "pending",
        ScanStatus::Running => "running",
        ScanStatus::Clean => "clean",
        ScanStatus::Vulnerable => "vulnerable",
        ScanStatus::Failed => "failed",
    }
}

fn size(bytes: Option<u64>) -> String {
    or_dash(bytes.map(|bytes| mib(bytes.div_ceil(1 << 20))).unwrap_or_default())
}

/// Images with what a bunker gets of each by default.
pub fn images(images: &[Image]) -> Table {
    let header = ["NAME", "ID", "STATUS", "SCOPE", "SIZE", "CPU", "MEMORY", "DISK", "SCAN"];
    table(
        header,
        images.iter().map(|image| {
            [
                image.name.clone(),
                image.id.to_string(),
                image_status(image.status).to_owned(),
                scope(image.scope).to_owned(),
                size(image.size_bytes),
                cores(image.default_cpu_millicores.into()),
                mib(image.default_memory_mb.into()),
                mib(image.default_disk_mb.into()),
                scan(image).to_owned(),
            ]
        }),
    )
}

/// All of one image.
pub fn image(image: &Image) -> Table {
    let source = match &image.source {
        ImageOrigin::BuiltIn => "built in".to_owned(),
        ImageOrigin::Oci { reference, .. } => reference.clone(),
        ImageOrigin::Tar { path, key } => {
            path.iter().chain(key).next().cloned().unwrap_or_default()
        }
    };
    let config = image.config.clone().unwrap_or_default();
    fields([
        ("id", image.id.to_string()),
        ("name", image.name.clone()),
        ("status", image_status(image.status).to_owned()),
        ("reason", or_dash(image.status_reason.clone().unwrap_or_default())),
        ("scope", scope(image.scope).to_owned()),
        ("source", source),
        ("digest", or_dash(image.digest.clone().unwrap_or_default())),
        ("manifest", or_dash(image.manifest_digest.clone().unwrap_or_default())),
        ("size", size(image.size_bytes)),
        ("user", or_dash(config.user)),
        ("workdir", or_dash(config.workdir)),
        ("entrypoint", or_dash(config.entrypoint.join(" "))),
        ("command", or_dash(config.cmd.join(" "))),
        ("cpu", cores(image.default_cpu_millicores.into())),
        ("memory", mib(image.default_memory_mb.into())),
        ("disk", mib(image.default_disk_mb.into())),
        ("lazy pull", image.lazy_pull.to_string()),
        ("scan", scan(image).to_owned()),
        ("created", time(image.created_at)),
    ])
}

/// What each worker has of an image, with its age at `now`.
pub fn image_cache(rows: &[ImageCacheRow], now: Timestamp) -> Table {
    table(
        ["WORKER", "STATUS", "PROGRESS", "SIZE", "UPDATED", "ERROR"],
        rows.iter().map(|row| {
            [
                row.worker_id.to_string(),
                cache_status(row.status).to_owned(),
                format!("{}%", row.progress),
                size(row.size_bytes),
                ago(row.updated_at, now),
                or_dash(row.error.clone().unwrap_or_default()),
            ]
        }),
    )
}

//! Images, as tables.

use comfy_table::Table;
use jiff::Timestamp;
use scaibunker_api::image::{
    CacheStatus, Finding, FindingKind, Image, ImageCacheRow, ImageOrigin, ImageScan, ImageScope,
    ImageStatus, ScanStatus, Severity,
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

fn scan_status(status: ScanStatus) -> &'static str {
    match status {
        ScanStatus::Skipped => "-",
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
                scan_status(image.scan_status).to_owned(),
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
        ("scan", scan_status(image.scan_status).to_owned()),
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

/// A scan without its findings.
pub fn image_scan(scan: &ImageScan) -> Table {
    let counts = scan.counts;
    let counts = [
        (counts.critical, Severity::Critical),
        (counts.high, Severity::High),
        (counts.medium, Severity::Medium),
        (counts.low, Severity::Low),
        (counts.unknown, Severity::Unknown),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, of)| format!("{count} {}", severity(*of))).collect();
    let kept =
        if scan.truncated { format!("the worst {}", scan.findings.len()) } else { String::new() };
    fields([
        ("image", scan.image_id.to_string()),
        ("scan", scan_status(scan.status).to_owned()),
        ("message", or_dash(scan.message.clone().unwrap_or_default())),
        ("found", or_dash(counts.join(", "))),
        ("shown", or_dash(kept)),
        ("scanner", or_dash(scan.scanner.clone().unwrap_or_default())),
        ("finished", or_dash(scan.finished_at.map(time).unwrap_or_default())),
    ])
}

/// What a scan found.
pub fn findings(findings: &[Finding]) -> Table {
    let header = ["SEVERITY", "ID", "KIND", "PACKAGE", "INSTALLED", "FIXED IN", "WHERE", "TITLE"];
    table(
        header,
        findings.iter().map(|finding| {
            let text = |text: &Option<String>| or_dash(text.clone().unwrap_or_default());
            [
                severity(finding.severity).to_owned(),
                finding.id.clone(),
                finding_kind(finding.kind).to_owned(),
                text(&finding.package),
                text(&finding.installed_version),
                text(&finding.fixed_version),
                finding.target.clone(),
                finding.title.clone(),
            ]
        }),
    )
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Unknown => "unknown",
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}

fn finding_kind(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Vulnerability => "vulnerability",
        FindingKind::Secret => "secret",
    }
}

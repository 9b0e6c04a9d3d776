//! Waiting for an image, with a bar for each worker that gets it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::anyhow;
use scaibunker_api::{
    ids::{ImageId, WorkerId},
    image::{CacheStatus, Image, ImageCacheRow, ImageStatus},
};

use crate::{
    client::Client,
    exit::Failure,
    output::{Output, Progresses},
    tables::{cache_status, image_status},
};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Shows how the image comes on, until every worker that can be asked has it or has failed. An
/// error if no worker has it then.
pub async fn follow(client: &Client, output: Output, id: ImageId) -> Result<Image, Failure> {
    let bars = output.progresses();
    let mut told = BTreeMap::new();
    loop {
        let (image, rows) = (client.image(id).await?, client.image_cache(id).await?);
        show(&bars, &rows);
        tell(output, &bars, &mut told, &rows);
        if has_settled(&image, &rows) {
            drop(bars);
            return judged(output, image, &rows);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn show(bars: &Progresses, rows: &[ImageCacheRow]) {
    for row in rows {
        let text = format!("{} {}", row.worker_id, cache_status(row.status));
        bars.set(&row.worker_id.to_string(), &text, row.progress.into());
    }
}

/// A line for each step, where there is no terminal for bars.
fn tell(
    output: Output,
    bars: &Progresses,
    told: &mut BTreeMap<WorkerId, CacheStatus>,
    rows: &[ImageCacheRow],
) {
    for row in rows {
        if told.insert(row.worker_id, row.status) != Some(row.status) && !bars.are_seen() {
            output.note(&format!("{}: {}", row.worker_id, cache_status(row.status)));
        }
    }
}

/// Whether nothing more will happen by itself. Workers that are offline are not waited for.
fn has_settled(image: &Image, rows: &[ImageCacheRow]) -> bool {
    let is_under_way = |row: &ImageCacheRow| match row.status {
        CacheStatus::Pulling | CacheStatus::Baking => true,
        CacheStatus::Pending => row.error.is_none(),
        CacheStatus::Ready | CacheStatus::Failed => false,
    };
    match image.status {
        ImageStatus::Failed => true,
        ImageStatus::Pending | ImageStatus::Baking => false,
        ImageStatus::Ready => image.lazy_pull || !rows.iter().any(is_under_way),
    }
}

fn judged(output: Output, image: Image, rows: &[ImageCacheRow]) -> Result<Image, Failure> {
    let next = format!(
        "correct the cause, then run `scaibunker images warm {}`; `scaibunker images cache {}` \
         shows each worker",
        image.name, image.name
    );
    if image.status == ImageStatus::Failed {
        let reason = image.status_reason.clone().unwrap_or_default();
        return Err(anyhow!(
            "image {} {}: {reason}; {next}",
            image.name,
            image_status(image.status)
        )
        .into());
    }
    let failed = rows.iter().filter(|row| row.status == CacheStatus::Failed);
    for row in failed.clone() {
        let error = row.error.as_deref().unwrap_or("no reason was given");
        output.note(&format!("{}: {error}", row.worker_id));
    }
    let has_any = rows.iter().any(|row| row.status == CacheStatus::Ready);
    if !has_any && failed.count() > 0 {
        return Err(anyhow!("no worker has image {}; {next}", image.name).into());
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn image(status: &str, lazy_pull: bool) -> Image {
        serde_json::from_value(json!({
            "id": ImageId::generate(), "name": "app", "scope": "tenant", "created_at": Timestamp::UNIX_EPOCH,
            "source": { "kind": "built_in" }, "status": status, "size_mib": 1,
            "default_cpu_millicores": 1, "default_memory_mb": 1, "default_disk_mb": 1,
            "lazy_pull": lazy_pull, "entrypoint_env": {}, "scan_status": "pending",
        }))
        .unwrap()
    }

    fn row(status: CacheStatus, error: Option<&str>) -> ImageCacheRow {
        ImageCacheRow {
            worker_id: WorkerId::generate(),
            status,
            progress: 0,
            error: error.map(str::to_owned),
            size_bytes: None,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_is_waited_for() {
        let ready = image("ready", false);
        assert!(!has_settled(&image("pending", false), &[]));
        assert!(!has_settled(&ready, &[row(CacheStatus::Pulling, None)]));
        assert!(!has_settled(&ready, &[row(CacheStatus::Pending, None)]));
        assert!(has_settled(&ready, &[row(CacheStatus::Pending, Some("offline"))]));
        assert!(has_settled(&image("ready", true), &[row(CacheStatus::Pending, None)]));
        assert!(has_settled(&image("failed", false), &[]));
    }
}

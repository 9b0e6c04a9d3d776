//! `scaibunker images scan`

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use scaibunker_api::{
    ids::ImageId,
    image::{Image, ImageScan, ScanStatus},
};

use crate::{client::Client, exit::Failure, object_ref::resolve, output::Output, tables};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct ScanArgs {
    /// Id or name
    image: String,
    /// Show what the last scan found, and begin none
    #[arg(long)]
    last: bool,
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "last")]
    no_wait: bool,
}

pub(super) async fn run(client: &Client, output: Output, args: ScanArgs) -> Result<(), Failure> {
    let id = resolve::<Image>(client, &args.image).await?;
    let scan = if args.last {
        client.image_scan(id).await?
    } else {
        let scan = client.scan_image(id).await?;
        if args.no_wait { scan } else { follow(client, output, scan).await? }
    };
    if output.is_json() {
        output.document(&scan)?;
    } else {
        output.table(&tables::image_scan(&scan))?;
        if !scan.findings.is_empty() {
            output.table(&tables::findings(&scan.findings))?;
        }
    }
    match (scan.status, scan.message) {
        (ScanStatus::Failed, Some(message)) if !args.last => Err(anyhow!("{message}").into()),
        _ => Ok(()),
    }
}

/// Waits for the end of a scan; one that cannot begin yet is not waited for.
async fn follow(client: &Client, output: Output, scan: ImageScan) -> Result<ImageScan, Failure> {
    let (id, mut scan): (ImageId, _) = (scan.image_id, scan);
    let is_under_way = |scan: &ImageScan| {
        let waits = scan.status == ScanStatus::Pending && scan.requested_at.is_some();
        waits || scan.status == ScanStatus::Running
    };
    if is_under_way(&scan) {
        output.note("scanning; the first scan downloads the vulnerability database");
    }
    while is_under_way(&scan) {
        tokio::time::sleep(POLL_INTERVAL).await;
        scan = client.image_scan(id).await?;
    }
    Ok(scan)
}

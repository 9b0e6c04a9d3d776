//! Scans the images that wait for it: on a timer, and whenever somebody nudges.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{app::App, failure::Failure};

/// Between two looks that nobody nudged for.
const INTERVAL: Duration = Duration::from_secs(120);

/// Scans what waits, then waits for a nudge. What the end of the server cuts off, the next one
/// takes up.
pub async fn run_once(app: &Arc<App>) -> Result<(), Failure> {
    tokio::select! {
        () = app.stopped.cancelled() => return Ok(()),
        scanned = app.scans.run_pending() => scanned?,
    }
    tokio::select! {
        () = app.stopped.cancelled() => {}
        () = app.images.scan_wanted() => {}
        () = sleep(INTERVAL) => {}
    }
    Ok(())
}

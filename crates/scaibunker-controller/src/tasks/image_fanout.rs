//! Brings images to the workers that shall have them: on a timer, and whenever somebody nudges.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{app::App, failure::Failure};

/// Between two looks that nobody nudged for.
const INTERVAL: Duration = Duration::from_secs(2);

/// Waits for a nudge, at most so long, and looks.
pub async fn run_once(app: &Arc<App>) -> Result<(), Failure> {
    // Either is a reason to look.
    let _ = timeout(INTERVAL, app.images.nudged()).await;
    app.images.fan_out().await
}

//! Removes uploads that nobody has committed.

use std::{sync::Arc, time::Duration};

use crate::{app::App, failure::chain};

/// An upload's URL is valid for an hour; what came of it has this long to be committed.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn run_once(app: &Arc<App>) {
    match app.objects.remove_uploads_older_than(UPLOAD_LIFETIME).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "uploads that were never committed are removed"),
        Err(error) => tracing::error!(error = chain(&error), "cannot remove old uploads"),
    }
}

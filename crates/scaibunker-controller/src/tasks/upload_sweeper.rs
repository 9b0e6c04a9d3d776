//! Removes uploads that nobody has committed.

use std::{sync::Arc, time::Duration};

use scaibunker_storage::StorageError;

use crate::app::App;

/// An upload's URL is valid for an hour; what came of it has this long to be committed.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn run_once(app: &Arc<App>) -> Result<(), StorageError> {
    let removed = app.objects.remove_uploads_older_than(UPLOAD_LIFETIME).await?;
    if removed > 0 {
        tracing::info!(removed, "uploads that were never committed are removed");
    }
    Ok(())
}

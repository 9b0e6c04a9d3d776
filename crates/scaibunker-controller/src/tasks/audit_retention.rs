//! Shortens the audit log to what is to be kept.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::{app::App, store::StoreError};

pub(super) async fn run_once(app: &Arc<App>) -> Result<(), StoreError> {
    let kept = SignedDuration::from_hours(i64::from(app.audit_retention_days) * 24);
    // A retention that reaches back further than time does removes nothing.
    let Ok(oldest) = Timestamp::now().checked_sub(kept) else { return Ok(()) };
    let removed = app.store.forget_audit_before(oldest).await?;
    if removed > 0 {
        tracing::info!(removed, days = app.audit_retention_days, "old audit entries are removed");
    }
    Ok(())
}

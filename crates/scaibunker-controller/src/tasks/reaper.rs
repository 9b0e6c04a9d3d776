//! Ends what has lived long enough: bunkers past their lifetime and idempotency keys past theirs.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::ids::RequestId;
use tracing::Instrument as _;

use crate::{app::App, store::StoreError};

/// A request may be repeated for this long.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

pub(super) async fn run_once(app: &Arc<App>) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let ended = end_bunkers(app, now).await;
    if let Ok(oldest) = now.checked_sub(KEY_LIFETIME) {
        app.store.forget_keys_before(oldest).await?;
    }
    ended
}

async fn end_bunkers(app: &Arc<App>, now: Timestamp) -> Result<(), StoreError> {
    for bunker in app.store.expired_bunkers(now).await? {
        let request_id = RequestId::generate();
        let span = tracing::info_span!("reap", %request_id, bunker_id = %bunker.id);
        let limit = bunker.spec.max_lifetime_s.unwrap_or_default();
        let reason = Some(format!("its max_lifetime_s of {limit} s was reached"));
        // Who ended is followed by a task of its own; one slow worker holds nobody else up.
        app.bunkers.request_end(bunker, reason, request_id.to_string()).instrument(span).await?;
    }
    Ok(())
}

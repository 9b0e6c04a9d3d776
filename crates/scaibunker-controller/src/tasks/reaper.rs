//! Ends what has lived long enough: bunkers past their lifetime or idle for too long, some of which are
//! paused instead, and written out when they are paused for long; and
//! idempotency keys past theirs.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{bunker::OnIdle, ids::RequestId};
use tracing::Instrument as _;

use crate::{
    app::App,
    domain::bunker::Bunker,
    failure::{Failure, chain},
    store::StoreError,
};

/// A request may be repeated for this long.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

pub(super) async fn run_once(app: &Arc<App>) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let expired = end_expired(app, now).await;
    let idle = end_idle(app, now).await;
    let evicted = evict_paused(app, now).await;
    if let Ok(oldest) = now.checked_sub(KEY_LIFETIME) {
        app.store.forget_keys_before(oldest).await?;
    }
    expired.and(idle).and(evicted)
}

/// Each takes as long as it takes; one that is under way is not begun again.
async fn evict_paused(app: &Arc<App>, now: Timestamp) -> Result<(), StoreError> {
    for bunker in app.store.paused_bunkers().await? {
        if bunker.is_to_be_evicted(now) {
            let snapshots = Arc::clone(&app.snapshots);
            let span = tracing::info_span!("evict", bunker_id = %bunker.id);
            let evicting = async move { snapshots.evict(bunker).await };
            app.tasks.spawn(evicting.instrument(span));
        }
    }
    Ok(())
}

async fn end_expired(app: &Arc<App>, now: Timestamp) -> Result<(), StoreError> {
    for bunker in app.store.expired_bunkers(now).await? {
        let limit = bunker.spec.max_lifetime_s.unwrap_or_default();
        end(app, bunker, format!("its max_lifetime_s of {limit} s was reached")).await?;
    }
    Ok(())
}

/// Heartbeats bring activity up to ten seconds late, so each candidate's worker is asked first. All
/// at once: one slow worker holds nobody else up.
async fn end_idle(app: &Arc<App>, now: Timestamp) -> Result<(), StoreError> {
    for bunker in app.store.idle_bunkers(now).await? {
        let app = Arc::clone(app);
        app.tasks.clone().spawn(async move {
            let id = bunker.id;
            if let Err(error) = end_if_idle(&app, bunker, now).await {
                tracing::error!(bunker_id = %id, error = chain(&error), "cannot end an idle bunker");
            }
        });
    }
    Ok(())
}

async fn end_if_idle(app: &Arc<App>, bunker: Bunker, now: Timestamp) -> Result<(), StoreError> {
    let Some(link) = app.fleet.link(bunker.worker_id) else { return Ok(()) };
    let report = match link.report(bunker.id, &RequestId::generate().to_string()).await {
        Ok(report) => report,
        // What became of it the reconciler finds out.
        Err(error) => {
            tracing::debug!(bunker_id = %bunker.id, error = chain(&error), "activity is not known");
            return Ok(());
        }
    };
    let Some(active_at) = report.last_active_at else { return Ok(()) };
    app.store.touch_bunker(bunker.id, active_at).await?;
    if bunker.idle_until(active_at).is_none_or(|until| until > now) {
        return Ok(());
    }
    let limit = bunker.spec.idle_timeout_s.unwrap_or_default();
    let reason = format!("it was idle for its idle_timeout_s of {limit} s");
    if bunker.spec.on_idle == OnIdle::Pause {
        return pause(app, bunker, active_at, reason).await;
    }
    end(app, bunker, reason).await
}

async fn pause(
    app: &Arc<App>,
    bunker: Bunker,
    active_at: Timestamp,
    reason: String,
) -> Result<(), StoreError> {
    let (request_id, id) = (RequestId::generate(), bunker.id);
    let span = tracing::info_span!("reap", %request_id, bunker_id = %id);
    let request_id = request_id.to_string();
    let pausing = app.bunkers.pause_idle(bunker, active_at, reason, &request_id);
    match pausing.instrument(span).await {
        Ok(()) => Ok(()),
        Err(Failure::Store(error)) => Err(error),
        // It is tried again in the next round.
        Err(Failure::Refused(error)) => {
            tracing::warn!(bunker_id = %id, reason = error.message, "an idle bunker is not paused");
            Ok(())
        }
    }
}

/// Who ended is followed by a task of its own.
async fn end(app: &Arc<App>, bunker: Bunker, reason: String) -> Result<(), StoreError> {
    let request_id = RequestId::generate();
    let span = tracing::info_span!("reap", %request_id, bunker_id = %bunker.id);
    let ending = app.bunkers.request_end(bunker, Some(reason), request_id.to_string());
    ending.instrument(span).await.map(drop)
}

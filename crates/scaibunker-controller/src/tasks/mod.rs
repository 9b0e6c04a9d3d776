//! What runs beside requests. Each task takes no input, may be repeated, and converges.

mod heartbeat_monitor;
mod quota_reconciler;
mod reaper;
mod reconciler;
mod upload_sweeper;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

pub use self::{quota_reconciler::fill_ledger, reconciler::Reconciler};
use crate::{app::App, failure::chain};

/// Starts every background task. A task that ends before `shutdown` has a bug; its name is what
/// the set yields.
pub fn spawn_all(app: &Arc<App>, shutdown: &CancellationToken) -> JoinSet<&'static str> {
    let mut tasks = JoinSet::new();
    let (five_seconds, half_a_minute) = (Duration::from_secs(5), Duration::from_secs(30));
    let hour = Duration::from_secs(60 * 60);
    let monitor = heartbeat_monitor::HeartbeatMonitor::new(Arc::clone(app));
    spawn(&mut tasks, "heartbeat monitor", five_seconds, shutdown, monitor, |mut monitor| async {
        monitor.run_once().await;
        monitor
    });
    spawn(&mut tasks, "reaper", five_seconds, shutdown, Arc::clone(app), |app| async {
        reaper::run_once(&app).await;
        app
    });
    spawn(&mut tasks, "reconciler", half_a_minute, shutdown, Arc::clone(app), |app| async {
        app.reconciler.reconcile_all().await;
        app
    });
    spawn(&mut tasks, "upload sweeper", hour, shutdown, Arc::clone(app), |app| async {
        upload_sweeper::run_once(&app).await;
        app
    });
    spawn(&mut tasks, "key uses", five_seconds, shutdown, Arc::clone(app), |app| async {
        if let Err(error) = app.credentials.flush_uses().await {
            tracing::error!(error = chain(&error), "the use of API keys was not written down");
        }
        app
    });
    tasks
}

fn spawn<S, F>(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    period: Duration,
    shutdown: &CancellationToken,
    mut state: S,
    run_once: impl Fn(S) -> F + Send + 'static,
) where
    S: Send + 'static,
    F: Future<Output = S> + Send,
{
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => state = run_once(state).await,
                () = shutdown.cancelled() => return name,
            }
        }
    });
}

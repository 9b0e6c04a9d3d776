//! What runs beside requests. Each task takes no input, may be repeated, and converges.

mod audit_retention;
mod board;
mod heartbeat_monitor;
mod image_fanout;
mod quota_reconciler;
mod reaper;
mod reconciler;
mod upload_sweeper;

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    board::{TaskBoard, TaskRuns},
    reconciler::Reconciler,
};
use crate::{app::App, failure::chain};

/// How a run ended; the runner logs and shows the failure.
type RunResult = Result<(), Box<dyn Error + Send + Sync>>;

/// Starts every background task. A task that ends before `shutdown` has a bug; its name is what
/// the set yields.
pub fn spawn_all(app: &Arc<App>, shutdown: &CancellationToken) -> JoinSet<&'static str> {
    let tenth_of_a_second = Duration::from_millis(100);
    let (five_seconds, half_a_minute) = (Duration::from_secs(5), Duration::from_secs(30));
    let minute = Duration::from_secs(60);
    let hour = Duration::from_secs(60 * 60);
    let mut runner =
        Runner { app: Arc::clone(app), shutdown: shutdown.clone(), set: JoinSet::new() };
    let monitor = heartbeat_monitor::HeartbeatMonitor::new(Arc::clone(app));
    runner.spawn("heartbeat monitor", five_seconds, monitor, |mut monitor| async {
        let result = monitor.run_once().await;
        (monitor, result.map_err(Into::into))
    });
    runner.spawn("reaper", five_seconds, Arc::clone(app), |app| async {
        let result = reaper::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("reconciler", half_a_minute, Arc::clone(app), |app| async {
        app.reconciler.reconcile_all().await;
        (app, Ok(()))
    });
    runner.spawn("uses of API keys", five_seconds, Arc::clone(app), |app| async {
        let result = app.credentials.flush_uses().await;
        (app, result.map_err(Into::into))
    });
    let quotas = quota_reconciler::QuotaReconciler::new(app);
    runner.spawn("quota reconciler", minute, quotas, |mut quotas| async {
        let result = quotas.run_once().await;
        (quotas, result.map_err(Into::into))
    });
    runner.spawn("image fan-out", tenth_of_a_second, Arc::clone(app), |app| async {
        let result = image_fanout::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("upload sweeper", hour, Arc::clone(app), |app| async {
        let result = upload_sweeper::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("audit retention", hour, Arc::clone(app), |app| async {
        let result = audit_retention::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.set
}

struct Runner {
    app: Arc<App>,
    shutdown: CancellationToken,
    set: JoinSet<&'static str>,
}

impl Runner {
    fn spawn<S, F>(
        &mut self,
        name: &'static str,
        period: Duration,
        mut state: S,
        run_once: impl Fn(S) -> F + Send + 'static,
    ) where
        S: Send + 'static,
        F: Future<Output = (S, RunResult)> + Send,
    {
        let (app, shutdown) = (Arc::clone(&self.app), self.shutdown.clone());
        app.task_board.enter(name);
        self.set.spawn(async move {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = shutdown.cancelled() => return name,
                }
                let (next, result) = run_once(state).await;
                state = next;
                let error = result.err().map(|error| chain(error.as_ref()));
                if let Some(error) = &error {
                    tracing::error!(task = name, error, "a run of a background task failed");
                }
                app.task_board.note(name, Timestamp::now(), error);
            }
        });
    }
}

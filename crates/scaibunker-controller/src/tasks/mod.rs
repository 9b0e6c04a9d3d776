//! What runs beside requests. Each task takes no input, may be repeated, and converges.

mod audit_retention;
mod board;
mod heartbeat_monitor;
mod image_fanout;
mod image_scanner;
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
use crate::{app::App, failure::chain, replicas, store::StoreError, workers};

/// How a run ended; the runner logs and shows the failure.
type RunResult = Result<(), Box<dyn Error + Send + Sync>>;

/// Starts every background task. A task that ends before `shutdown` has a bug; its name is what
/// the set yields.
pub fn spawn_all(app: &Arc<App>, shutdown: &CancellationToken) -> JoinSet<&'static str> {
    let tenth_of_a_second = Duration::from_millis(100);
    let two_seconds = Duration::from_secs(2);
    let (five_seconds, half_a_minute) = (Duration::from_secs(5), Duration::from_secs(30));
    let minute = Duration::from_secs(60);
    let five_minutes = Duration::from_secs(300);
    let hour = Duration::from_secs(60 * 60);
    let (everywhere, once) = (Scope::Everywhere, Scope::Once);
    let mut runner =
        Runner { app: Arc::clone(app), shutdown: shutdown.clone(), set: JoinSet::new() };
    let monitor = heartbeat_monitor::HeartbeatMonitor::new(Arc::clone(app));
    runner.spawn(
        "signs of life",
        everywhere,
        replicas::SIGN_INTERVAL,
        Arc::clone(app),
        |app| async {
            let result = app.replicas.sign().await;
            (app, result.map_err(Into::into))
        },
    );
    runner.spawn("workers", everywhere, two_seconds, Arc::clone(app), |app| async {
        let result = workers::follow(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("heartbeat monitor", once, five_seconds, monitor, |mut monitor| async {
        let result = monitor.run_once().await;
        (monitor, result.map_err(Into::into))
    });
    runner.spawn("reaper", once, five_seconds, Arc::clone(app), |app| async {
        let result = reaper::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("reconciler", once, half_a_minute, Arc::clone(app), |app| async {
        app.reconciler.reconcile_all().await;
        (app, Ok(()))
    });
    runner.spawn("uses of API keys", everywhere, five_seconds, Arc::clone(app), |app| async {
        let result = app.credentials.flush_uses().await;
        (app, result.map_err(Into::into))
    });
    let quotas = quota_reconciler::QuotaReconciler::new(app);
    runner.spawn("quota reconciler", once, minute, quotas, |mut quotas| async {
        let result = quotas.run_once().await;
        (quotas, result.map_err(Into::into))
    });
    runner.spawn("image fan-out", once, tenth_of_a_second, Arc::clone(app), |app| async {
        let result = image_fanout::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("image scanner", everywhere, tenth_of_a_second, Arc::clone(app), |app| async {
        let result = image_scanner::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("snapshot clean-up", once, five_minutes, Arc::clone(app), |app| async {
        let result = app.snapshots.tidy().await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("upload sweeper", once, hour, Arc::clone(app), |app| async {
        let result = upload_sweeper::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.spawn("audit retention", once, hour, Arc::clone(app), |app| async {
        let result = audit_retention::run_once(&app).await;
        (app, result.map_err(Into::into))
    });
    runner.set
}

/// Which of several controllers run a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Each: it is about what the process itself knows.
    Everywhere,
    /// One: whoever holds the task's lease.
    Once,
}

async fn is_due(app: &App, scope: Scope, name: &'static str) -> Result<bool, StoreError> {
    match scope {
        Scope::Everywhere => Ok(true),
        Scope::Once => app.replicas.holds(name).await,
    }
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
        scope: Scope,
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
                match is_due(&app, scope, name).await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        let error = chain(&error);
                        tracing::error!(
                            task = name,
                            error,
                            "who runs a background task is not known"
                        );
                        app.task_board.note(name, Timestamp::now(), Some(error));
                        continue;
                    }
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

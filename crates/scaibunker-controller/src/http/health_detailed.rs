//! Health in detail, for operators.

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Instant};

use axum::extract::State;
use jiff::Timestamp;
use scaibunker_api::{time, worker::WorkerStatus};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    answer::Answer,
    query::{NoQuery, Query},
};
use crate::{app::App, failure::chain, tasks::TaskRuns};

/// Everything about a process that its operator asks for first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Detailed {
    version: &'static str,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    started_at: Timestamp,
    uptime_s: u64,
    /// Whether the process is about to end and takes no new connections.
    is_draining: bool,
    database: Dependency,
    ledger: Dependency,
    /// Workers by status.
    workers: BTreeMap<&'static str, u64>,
    linked_workers: usize,
    /// Background tasks by name.
    tasks: BTreeMap<&'static str, Task>,
}

/// Something that the process depends on.
#[derive(Debug, Serialize, JsonSchema)]
struct Dependency {
    kind: &'static str,
    is_ok: bool,
    latency_ms: f64,
    /// Why it does not answer.
    error: Option<String>,
}

/// A background task.
#[derive(Debug, Serialize, JsonSchema)]
struct Task {
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    last_run: Option<Timestamp>,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    last_error_at: Option<Timestamp>,
    last_error: Option<String>,
}

pub(super) async fn detailed(
    State(app): State<Arc<App>>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Answer<Detailed> {
    let database = Dependency::ask(app.store.kind(), app.store.ping()).await;
    let ledger = Dependency::ask(app.ledger.kind(), app.ledger.ping()).await;
    let uptime_s = Timestamp::now().duration_since(app.started_at).as_secs().unsigned_abs();
    Answer::ok(Detailed {
        version: env!("CARGO_PKG_VERSION"),
        started_at: app.started_at,
        uptime_s,
        is_draining: app.draining.is_cancelled(),
        database,
        ledger,
        workers: workers_by_status(&app).into_iter().collect(),
        linked_workers: app.fleet.linked_workers().len(),
        tasks: app.task_board.runs().into_iter().map(|(name, runs)| (name, runs.into())).collect(),
    })
}

/// How many workers there are in each status.
pub(super) fn workers_by_status(app: &App) -> [(&'static str, u64); 4] {
    let workers = app.fleet.workers();
    let count = |status| workers.iter().filter(|worker| worker.status == status).count() as u64;
    [
        ("online", count(WorkerStatus::Online)),
        ("offline", count(WorkerStatus::Offline)),
        ("draining", count(WorkerStatus::Draining)),
        ("drained", count(WorkerStatus::Drained)),
    ]
}

impl Dependency {
    async fn ask<E: Error + 'static>(
        kind: &'static str,
        ping: impl Future<Output = Result<(), E>>,
    ) -> Self {
        let began = Instant::now();
        let answer = ping.await;
        let latency_ms = began.elapsed().as_secs_f64() * 1000.0;
        let error = answer.err().map(|error| chain(&error));
        Self { kind, is_ok: error.is_none(), latency_ms, error }
    }
}

impl From<TaskRuns> for Task {
    fn from(runs: TaskRuns) -> Self {
        let (last_error_at, last_error) = runs.last_error.unzip();
        Self { last_run: runs.last_run, last_error_at, last_error }
    }
}

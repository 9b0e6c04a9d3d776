//! Brings the database and the workers together, in both directions.
//!
//! What a worker holds is believed from any report. What it does *not* hold, and what is paused or
//! resumed, is only believed from an answer to a question that was asked after the rows were read: a
//! heartbeat may have been written before a bunker was started, or before it was resumed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    ids::{BunkerId, RequestId, WorkerId},
    worker::BunkerReport,
};
use tracing::Instrument as _;

use crate::{
    bunkers::Bunkers,
    domain::{
        bunker::Bunker,
        reconcile::{Action, decide},
    },
    failure::chain,
    fleet::{Fleet, Link, LinkError},
    store::{Store, StoreError},
};

/// The reconciler; one for the process.
pub struct Reconciler {
    store: Store,
    fleet: Arc<Fleet>,
    bunkers: Arc<Bunkers>,
    /// What each worker reported last of its own accord, once it was settled.
    settled: Mutex<HashMap<WorkerId, HashMap<BunkerId, BunkerReport>>>,
}

/// What the database and a worker say of one bunker.
struct Difference<'a> {
    id: BunkerId,
    row: Option<&'a Bunker>,
    report: Option<&'a BunkerReport>,
    /// Whether the worker was asked after the row was read.
    newer: bool,
}

#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Reconciler {
    /// A reconciler of `store` and `fleet`.
    #[must_use]
    pub fn new(store: Store, fleet: Arc<Fleet>, bunkers: Arc<Bunkers>) -> Self {
        Self { store, fleet, bunkers, settled: Mutex::default() }
    }

    /// Asks every linked worker what it holds.
    pub async fn reconcile_all(&self) {
        for worker_id in self.fleet.linked_workers() {
            self.reconcile(worker_id).await;
        }
    }

    /// Asks one worker what it holds and settles every difference.
    pub async fn reconcile(&self, worker_id: WorkerId) {
        let request_id = RequestId::generate();
        let span = tracing::info_span!("reconcile", %request_id, %worker_id);
        let Some(link) = self.fleet.link(worker_id) else { return };
        let work = async {
            let rows = self.store.live_bunkers(Some(worker_id)).await?;
            let reports = link.list(&request_id.to_string()).await?;
            let held: HashMap<_, _> = reports.iter().map(|report| (report.id, report)).collect();
            for row in rows.iter().filter(|row| !held.contains_key(&row.id)) {
                let missing = Difference { id: row.id, row: Some(row), report: None, newer: true };
                self.settle(&link, missing, request_id).await?;
            }
            let rows = rows.iter().map(|row| (row.id, row)).collect();
            self.settle_reports(&link, reports.iter(), &rows, request_id).await
        };
        // One that was started since the rows were read can stay open: the next round settles it.
        if let Err(error) = work.instrument(span).await {
            tracing::warn!(%worker_id, error = chain(&error), "cannot reconcile with a worker");
        }
    }

    /// Settles what is new in what a worker reported of its own accord. What is not was settled when
    /// it was, and is looked at by [`Self::reconcile_all`].
    pub async fn observe(&self, worker_id: WorkerId, reports: &[BunkerReport]) {
        let request_id = RequestId::generate();
        let span = tracing::info_span!("observe", %request_id, %worker_id);
        let Some(link) = self.fleet.link(worker_id) else {
            self.settled().remove(&worker_id);
            return;
        };
        let before = self.settled().remove(&worker_id).unwrap_or_default();
        let news = reports.iter().filter(|report| before.get(&report.id) != Some(report));
        let unread = HashMap::new();
        let work = self.settle_reports(&link, news, &unread, request_id);
        match work.instrument(span).await {
            Ok(open) => {
                let reports = reports.iter().map(|report| (report.id, report.clone())).collect();
                self.settled().insert(worker_id, reports);
                if open {
                    self.reconcile(worker_id).await;
                }
            }
            Err(error) => {
                tracing::warn!(%worker_id, error = chain(&error), "cannot settle a worker's reports");
            }
        }
    }

    fn settled(&self) -> MutexGuard<'_, HashMap<WorkerId, HashMap<BunkerId, BunkerReport>>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether one of them leaves open what to do until the worker is asked.
    async fn settle_reports(
        &self,
        link: &Link,
        reports: impl Iterator<Item = &BunkerReport>,
        live: &HashMap<BunkerId, &Bunker>,
        request_id: RequestId,
    ) -> Result<bool, ReconcileError> {
        let mut open = false;
        for report in reports {
            // Of a row that was live a moment ago nothing is concluded but changes of that version
            // of it. Any other is read after the report was written: one that is missing now was
            // never there.
            let read;
            let (row, newer) = match live.get(&report.id) {
                Some(row) => (Some(*row), true),
                None => {
                    read = self.store.bunker(report.id).await?;
                    (read.as_ref(), false)
                }
            };
            if let (Some(row), Some(active_at)) = (row, report.last_active_at)
                && is_news(row, active_at)
            {
                self.store.touch_bunker(row.id, active_at).await?;
            }
            let difference = Difference { id: report.id, row, report: Some(report), newer };
            open |= !self.settle(link, difference, request_id).await?;
        }
        Ok(open)
    }

    /// Returns whether what is known was enough to decide.
    async fn settle(
        &self,
        link: &Link,
        Difference { id, row, report, newer }: Difference<'_>,
        request_id: RequestId,
    ) -> Result<bool, ReconcileError> {
        // Who starts it writes down what comes of that, as long as there is one.
        let starter = row.filter(|row| row.is_starting()).and_then(|row| row.starter);
        let is_anothers = starter.is_some_and(|starter| self.bunkers.is_another_alive(starter));
        if self.bunkers.is_starting(id) || is_anothers {
            return Ok(true);
        }
        let request_id = request_id.to_string();
        let action = decide(row, link.worker_id(), report, Timestamp::now());
        if action.needs_newer_report() && !newer {
            return Ok(false);
        }
        if action != Action::Nothing {
            tracing::info!(bunker_id = %id, ?action, "database and worker differ");
        }
        match (action, row) {
            (Action::Forget, _) => link.remove(id, &request_id).await?,
            (Action::Apply(event), Some(row)) => {
                self.bunkers.apply_if_unchanged(row, event).await?;
            }
            (Action::ApplyThenForget(event), Some(row)) => {
                if self.bunkers.apply_if_unchanged(row, event).await?.is_some() {
                    link.remove(id, &request_id).await?;
                }
            }
            (Action::ForgetThenApply(event), Some(row)) => {
                link.remove(id, &request_id).await?;
                self.bunkers.apply_if_unchanged(row, event).await?;
            }
            (Action::Nothing, _) | (_, None) => {}
        }
        Ok(true)
    }
}

/// Whether the time is enough later than the one on record to be worth a write.
fn is_news(row: &Bunker, active_at: Timestamp) -> bool {
    let step = SignedDuration::from_secs(1);
    row.last_active_at.is_none_or(|known| active_at.duration_since(known) > step)
}

//! Brings the database and the workers together, in both directions.
//!
//! What a worker holds is believed from any report. What it does *not* hold is only believed from
//! an answer to a question that was asked after the rows were read: a heartbeat may have been
//! written before a bunker was started.

use std::{collections::HashMap, sync::Arc};

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
        Self { store, fleet, bunkers }
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
                self.settle(&link, row.id, Some(row), None, request_id).await?;
            }
            self.settle_reports(&link, &reports, request_id).await
        };
        if let Err(error) = work.instrument(span).await {
            tracing::warn!(%worker_id, error = chain(&error), "cannot reconcile with a worker");
        }
    }

    /// Settles what a worker reported of its own accord.
    pub async fn observe(&self, worker_id: WorkerId, reports: &[BunkerReport]) {
        let request_id = RequestId::generate();
        let span = tracing::info_span!("observe", %request_id, %worker_id);
        let Some(link) = self.fleet.link(worker_id) else { return };
        let work = self.settle_reports(&link, reports, request_id);
        if let Err(error) = work.instrument(span).await {
            tracing::warn!(%worker_id, error = chain(&error), "cannot settle a worker's reports");
        }
    }

    async fn settle_reports(
        &self,
        link: &Link,
        reports: &[BunkerReport],
        request_id: RequestId,
    ) -> Result<(), ReconcileError> {
        for report in reports {
            // Read after the report was written: a row that is missing now was never there.
            let row = self.store.bunker(report.id).await?;
            if let (Some(row), Some(active_at)) = (&row, report.last_active_at)
                && is_news(row, active_at)
            {
                self.store.touch_bunker(row.id, active_at).await?;
            }
            self.settle(link, report.id, row.as_ref(), Some(report), request_id).await?;
        }
        Ok(())
    }

    async fn settle(
        &self,
        link: &Link,
        id: BunkerId,
        row: Option<&Bunker>,
        report: Option<&BunkerReport>,
        request_id: RequestId,
    ) -> Result<(), ReconcileError> {
        if self.bunkers.is_starting(id) {
            return Ok(());
        }
        let request_id = request_id.to_string();
        let action = decide(row, link.worker_id(), report, Timestamp::now());
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
        Ok(())
    }
}

/// Whether the time is enough later than the one on record to be worth a write.
fn is_news(row: &Bunker, active_at: Timestamp) -> bool {
    let step = SignedDuration::from_secs(1);
    row.last_active_at.is_none_or(|known| active_at.duration_since(known) > step)
}

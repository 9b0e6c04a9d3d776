//! Fails the bunkers of workers that fell silent.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use scaibunker_api::{bunker::BunkerStatus, ids::WorkerId};

use crate::{app::App, domain::bunker::Event, store::StoreError};

/// The monitor and whom it has already told the log about.
pub(super) struct HeartbeatMonitor {
    app: Arc<App>,
    silent: BTreeSet<WorkerId>,
}

impl HeartbeatMonitor {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app, silent: BTreeSet::new() }
    }

    pub(super) async fn run_once(&mut self) -> Result<(), StoreError> {
        let mut result = Ok(());
        let mut silent: BTreeSet<_> = self.app.fleet.silent_workers().into_iter().collect();
        if !silent.is_empty() {
            // What another controller heard counts; without the ledger, only what this one did.
            let heard = self.app.ledger.alive().await.unwrap_or_default();
            silent.retain(|worker_id| !heard.contains(worker_id));
        }
        for worker_id in &silent {
            if !self.silent.contains(worker_id) {
                tracing::warn!(%worker_id, "a worker is offline: its heartbeats stopped");
            }
            if let Err(error) = self.fail_bunkers(*worker_id).await {
                result = Err(error);
            }
        }
        for worker_id in self.silent.difference(&silent) {
            tracing::info!(%worker_id, "a worker is online again");
        }
        self.silent = silent;
        result
    }

    async fn fail_bunkers(&self, worker_id: WorkerId) -> Result<(), StoreError> {
        for bunker in self.app.store.live_bunkers(Some(worker_id)).await? {
            let at = Timestamp::now();
            // Should the worker come back, it is told to free both.
            let event = match bunker.status() {
                BunkerStatus::Terminating => Event::Released { at },
                _ => Event::Failed {
                    reason: "its worker went offline: the heartbeats stopped".to_owned(),
                    at,
                },
            };
            self.app.bunkers.apply_if_unchanged(&bunker, event).await?;
        }
        Ok(())
    }
}

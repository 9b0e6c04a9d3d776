//! Keeps the ledger and the database in agreement.

use std::{collections::HashSet, sync::Arc};

use crate::{
    app::App,
    domain::{
        bunker::Bunker,
        quota_drift::{Difference, differences},
    },
    ledger::LedgerError,
    quotas::{QuotaError, fill_ledger},
};

/// The reconciler, and what differed when it last looked.
pub(super) struct QuotaReconciler {
    app: Arc<App>,
    seen: HashSet<Difference>,
}

impl QuotaReconciler {
    /// A reconciler that has not looked yet.
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app, seen: HashSet::new() }
    }

    /// Looks once, and repairs what differed the last time too.
    pub(super) async fn run_once(&mut self) -> Result<(), QuotaError> {
        let drift = self.reconcile().await.inspect_err(|error| {
            if matches!(error, QuotaError::Ledger(_)) {
                self.app.metrics.ledger_failures.inc();
            }
        })?;
        self.app.metrics.quota_drift.inc_by(drift as u64);
        Ok(())
    }

    /// Gives the number of repaired differences that no crash explains.
    async fn reconcile(&mut self) -> Result<usize, QuotaError> {
        let snapshot = match self.app.ledger.snapshot().await {
            Err(LedgerError::Lost) => {
                fill_ledger(&self.app.store, &self.app.ledger).await?;
                return Ok(0);
            }
            snapshot => snapshot?,
        };
        let live = self.app.store.live_bunkers(None).await?;
        let mut found = differences(&snapshot.charges, &snapshot.counters, &live);
        let real: Vec<_> = found.extract_if(|difference| self.seen.contains(difference)).collect();
        self.seen = found;
        let mut drift = 0;
        for difference in real {
            tracing::warn!(?difference, "quota and database differ");
            drift += usize::from(self.repair(&difference).await? && difference.is_drift());
        }
        Ok(drift)
    }

    /// `false` when it has settled itself meanwhile.
    async fn repair(&self, difference: &Difference) -> Result<bool, QuotaError> {
        match difference {
            Difference::LeftOver(id) => {
                let row = self.app.store.bunker(*id).await?;
                if row.is_some_and(|row| !row.status().is_terminal()) {
                    return Ok(false);
                }
                Ok(self.app.ledger.release(*id).await?)
            }
            Difference::Mischarged { id, generation, .. } => {
                let row = self.app.store.bunker(*id).await?;
                let Some(row) = row.filter(|row| row.generation == *generation) else {
                    return Ok(false);
                };
                self.app.ledger.correct(*id, Bunker::charge(&row).as_ref()).await?;
                Ok(true)
            }
            Difference::Miscounted(_) => {
                self.app.ledger.recount().await?;
                Ok(true)
            }
        }
    }
}

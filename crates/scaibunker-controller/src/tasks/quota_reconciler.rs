//! Keeps the ledger and the database in agreement.

use std::{collections::HashSet, sync::Arc};

use crate::{
    app::App,
    domain::{
        bunker::Bunker,
        quota_drift::{Difference, differences},
    },
    ledger::{LedgerError, SharedLedger},
    metrics::Metrics,
    quotas::{QuotaError, fill_ledger},
    store::Store,
};

/// The reconciler, and what differed when it last looked.
pub(super) struct QuotaReconciler {
    store: Store,
    ledger: SharedLedger,
    metrics: Arc<Metrics>,
    seen: HashSet<Difference>,
}

impl QuotaReconciler {
    /// A reconciler that has not looked yet.
    pub(super) fn new(app: &App) -> Self {
        let metrics = Arc::clone(&app.metrics);
        Self::of(app.store.clone(), Arc::clone(&app.ledger), metrics)
    }

    fn of(store: Store, ledger: SharedLedger, metrics: Arc<Metrics>) -> Self {
        Self { store, ledger, metrics, seen: HashSet::new() }
    }

    /// Looks once, and repairs what differed the last time too.
    pub(super) async fn run_once(&mut self) -> Result<(), QuotaError> {
        let drift = self.reconcile().await.inspect_err(|error| {
            if matches!(error, QuotaError::Ledger(_)) {
                self.metrics.ledger_failures.inc();
            }
        })?;
        self.metrics.quota_drift.inc_by(drift as u64);
        Ok(())
    }

    /// Gives the number of repaired differences that no crash explains.
    async fn reconcile(&mut self) -> Result<usize, QuotaError> {
        let snapshot = match self.ledger.snapshot().await {
            Err(LedgerError::Lost) => {
                fill_ledger(&self.store, &self.ledger).await?;
                return Ok(0);
            }
            snapshot => snapshot?,
        };
        let live = self.store.live_bunkers(None).await?;
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
                let row = self.store.bunker(*id).await?;
                if row.is_some_and(|row| !row.status().is_terminal()) {
                    return Ok(false);
                }
                Ok(self.ledger.release(*id).await?)
            }
            Difference::Mischarged { id, generation, .. } => {
                let row = self.store.bunker(*id).await?;
                let Some(row) = row.filter(|row| row.generation == *generation) else {
                    return Ok(false);
                };
                self.ledger.correct(*id, Bunker::charge(&row).as_ref()).await?;
                Ok(true)
            }
            Difference::Miscounted(_) => {
                self.ledger.recount().await?;
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        strategy::ValueTree as _,
        test_runner::{Config, TestRunner},
    };
    use scaibunker_api::{
        bunker::BunkerStatus,
        ids::{BunkerId, GroupId, UserId},
    };

    use super::*;
    use crate::{
        domain::{
            quota::{Bucket, Charge},
            quota_drift::counters_of,
        },
        ledger::{LedgerSnapshot, tests as ledgers},
        store::tests::{Home, sqlite},
    };

    const CASES: usize = 12;

    /// What is wrong with the ledger. Bunkers are meant by their number modulo how many there are.
    #[derive(Debug, Clone)]
    enum Wrong {
        /// A bunker, live or not, is charged nothing.
        Uncharged(usize),
        /// A bunker, live or not, is charged something else, somewhere else.
        Charged(usize, Charge),
        /// There is no such bunker.
        Unknown(Charge),
    }

    fn charge() -> impl Strategy<Value = Charge> {
        let amounts = proptest::array::uniform6(0..5_000u64);
        (amounts, any::<bool>(), any::<bool>()).prop_map(|(amounts, paused, shared)| {
            let mut buckets = vec![Bucket::User(UserId::generate())];
            buckets.extend(shared.then(|| Bucket::Group(GroupId::generate())));
            Charge { buckets, amounts: amounts.into(), paused }
        })
    }

    fn wrong() -> impl Strategy<Value = Wrong> {
        prop_oneof![
            any::<usize>().prop_map(Wrong::Uncharged),
            (any::<usize>(), charge()).prop_map(|(which, charge)| Wrong::Charged(which, charge)),
            charge().prop_map(Wrong::Unknown),
        ]
    }

    async fn expected(store: &Store) -> LedgerSnapshot {
        let live = store.live_bunkers(None).await.unwrap();
        let charges = live.iter().filter_map(|bunker| Some((bunker.id, bunker.charge()?)));
        let charges: std::collections::HashMap<_, _> = charges.collect();
        LedgerSnapshot { counters: counters_of(charges.values()), charges }
    }

    async fn whatever_is_wrong_is_repaired_once(ledger: SharedLedger) {
        let database = sqlite();
        let home = Home::open(&database).await;
        let buckets = vec![Bucket::User(home.owner), Bucket::Group(GroupId::generate())];
        let mut bunkers = Vec::new();
        for status in BunkerStatus::ALL {
            bunkers.push(home.bunker_in(status, buckets.clone()).await.id);
        }
        let right = expected(&home.store).await;
        let metrics = Arc::new(Metrics::new());
        let mut reconciler =
            QuotaReconciler::of(home.store.clone(), Arc::clone(&ledger), Arc::clone(&metrics));
        // It was never filled.
        reconciler.run_once().await.unwrap();
        assert_eq!(ledger.snapshot().await.unwrap(), right);

        let mut runner = TestRunner::new(Config::default());
        for _ in 0..CASES {
            let wrongs = proptest::collection::vec(wrong(), 1..12);
            let wrongs = wrongs.new_tree(&mut runner).unwrap().current();
            for wrong in &wrongs {
                let (id, charge) = match wrong {
                    Wrong::Uncharged(which) => (bunkers[which % bunkers.len()], None),
                    Wrong::Charged(which, charge) => (bunkers[which % bunkers.len()], Some(charge)),
                    Wrong::Unknown(charge) => (BunkerId::generate(), Some(charge)),
                };
                ledger.correct(id, charge).await.unwrap();
            }
            let broken = ledger.snapshot().await.unwrap();
            let of_the_live = |id: &&BunkerId| broken.charges.get(id) != right.charges.get(id);
            let drift = right.charges.keys().filter(of_the_live).count() as u64;
            let before = metrics.quota_drift.get();
            // What is seen once may be a step under way.
            reconciler.run_once().await.unwrap();
            assert_eq!(ledger.snapshot().await.unwrap(), broken, "{wrongs:?}");
            reconciler.run_once().await.unwrap();
            assert_eq!(ledger.snapshot().await.unwrap(), right, "{wrongs:?}");
            reconciler.run_once().await.unwrap();
            reconciler.run_once().await.unwrap();
            assert_eq!(metrics.quota_drift.get() - before, drift, "{wrongs:?}");
        }
    }

    #[tokio::test]
    async fn whatever_is_wrong_is_repaired_once_in_memory() {
        whatever_is_wrong_is_repaired_once(ledgers::memory()).await;
    }

    #[tokio::test]
    async fn whatever_is_wrong_is_repaired_once_in_redis() {
        whatever_is_wrong_is_repaired_once(ledgers::redis()).await;
    }
}

//! Keeps the ledger and the database in agreement.

use std::collections::HashMap;

use crate::{
    ledger::{LedgerError, SharedLedger},
    store::{Store, StoreError},
};

/// The ledger and the database could not be brought together.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Fills a ledger that has lost its contents, or never had any.
pub async fn fill_ledger(store: &Store, ledger: &SharedLedger) -> Result<(), QuotaError> {
    let live = store.live_bunkers(None).await?;
    let charges: HashMap<_, _> =
        live.iter().filter_map(|bunker| Some((bunker.id, bunker.charge()?))).collect();
    ledger.rebuild(&charges).await?;
    tracing::info!(bunkers = charges.len(), "the quota ledger is filled from the database");
    Ok(())
}

//! Filling the ledger from the database: at start, and whenever it has lost its contents.

use std::{collections::HashMap, future::Future};

use crate::{
    failure::{Failure, chain},
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

impl From<QuotaError> for Failure {
    fn from(error: QuotaError) -> Self {
        match error {
            QuotaError::Store(error) => error.into(),
            QuotaError::Ledger(error) => error.into(),
        }
    }
}

/// Charges every live bunker in a ledger that has lost its contents; any other stays as it is.
pub async fn fill_ledger(store: &Store, ledger: &SharedLedger) -> Result<(), QuotaError> {
    let live = store.live_bunkers(None).await?;
    let charges: HashMap<_, _> =
        live.iter().filter_map(|bunker| Some((bunker.id, bunker.charge()?))).collect();
    ledger.rebuild(&charges).await?;
    tracing::info!(bunkers = charges.len(), "the quota ledger has every live bunker");
    Ok(())
}

/// Does `step` on the ledger; one that has lost its contents is filled first.
pub async fn on_filled<T, F: Future<Output = Result<T, LedgerError>>>(
    store: &Store,
    ledger: &SharedLedger,
    step: impl Fn() -> F,
) -> Result<T, QuotaError> {
    match step().await {
        Err(LedgerError::Lost) => {
            tracing::warn!(error = chain(&LedgerError::Lost), "filling it from the database");
            fill_ledger(store, ledger).await?;
            Ok(step().await?)
        }
        done => Ok(done?),
    }
}

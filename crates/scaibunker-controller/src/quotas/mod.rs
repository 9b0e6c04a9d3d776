//! Quota profiles, whom they are assigned to, and what is left of them.

mod assignments;
mod profiles;

use std::sync::Arc;

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    quota::{ProfileUsage, Resource},
};

use crate::{
    credentials::Credentials,
    domain::{
        actor::Actor,
        quota::{Amounts, Bucket, buckets},
    },
    failure::{Failure, chain},
    ledger::{LedgerError, SharedLedger},
    store::Store,
    tasks::fill_ledger,
};

/// The service; one for the process.
pub struct Quotas {
    store: Store,
    ledger: SharedLedger,
    credentials: Arc<Credentials>,
}

impl Quotas {
    /// A service on `store`, with what is used counted in `ledger`.
    #[must_use]
    pub fn new(store: Store, ledger: SharedLedger, credentials: Arc<Credentials>) -> Self {
        Self { store, ledger, credentials }
    }

    /// What is used and left of each profile that applies to the caller.
    pub async fn usage(&self, actor: &Actor) -> Result<Vec<ProfileUsage>, Failure> {
        let buckets = buckets(&actor.quota_profiles);
        let counted = self.counted(&buckets).await?;
        let rows = actor.quota_profiles.iter().map(|profile| {
            let place = buckets.iter().position(|bucket| *bucket == profile.bucket);
            let current = place.and_then(|at| counted.get(at)).copied().unwrap_or_default();
            let resources = Resource::ALL.into_iter();
            ProfileUsage {
                profile_id: profile.id,
                profile_name: profile.name.clone(),
                bucket: profile.bucket.to_string(),
                resources: resources
                    .map(|resource| (resource, profile.usage(resource, current)))
                    .collect(),
            }
        });
        Ok(rows.collect())
    }

    async fn counted(&self, buckets: &[Bucket]) -> Result<Vec<Amounts>, Failure> {
        let counted = match self.ledger.usage(buckets).await {
            Err(LedgerError::Lost) => {
                fill_ledger(&self.store, &self.ledger).await.map_err(|error| unknown(&error))?;
                self.ledger.usage(buckets).await
            }
            counted => counted,
        };
        counted.map_err(|error| unknown(&error))
    }

    /// What applies to users may be other profiles or caps from now on.
    fn changed(&self) {
        self.credentials.forget_all();
    }
}

fn unknown(error: &(dyn std::error::Error + 'static)) -> Failure {
    tracing::error!(error = chain(error), "the ledger does not tell what is used");
    let message = "what is used is not known at the moment; try again shortly";
    let error = ErrorBody::new(ErrorCode::NotReady, message);
    ErrorBody { retry_after: Some(2), ..error }.into()
}

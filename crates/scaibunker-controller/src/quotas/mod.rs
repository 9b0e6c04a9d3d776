//! Quota profiles, whom they are assigned to, and what is left of them.

mod assignments;
mod filling;
mod profiles;

use std::sync::Arc;

use scaibunker_api::quota::{ProfileUsage, Resource};

pub use self::filling::{QuotaError, fill_ledger, on_filled};
use crate::{
    credentials::Credentials,
    domain::{actor::Actor, quota::buckets},
    failure::Failure,
    ledger::SharedLedger,
    store::Store,
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
        let read = || self.ledger.usage(&buckets);
        let counted = on_filled(&self.store, &self.ledger, read).await?;
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

    /// What applies to users may be other profiles or caps from now on.
    fn changed(&self) {
        self.credentials.forget_all();
    }
}

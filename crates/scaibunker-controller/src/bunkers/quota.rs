//! What a bunker takes of quotas, and that it gives it back.
//!
//! The order makes every step safe to lose: quota is reserved before the row is written, and given
//! back after the row says that the bunker has ended. What a crash leaves in between is found by
//! the quota reconciler, which knows it by the bunker's id.

use scaibunker_api::{bunker::BunkerStatus, ids::BunkerId};
use tokio_util::task::TaskTracker;

use super::Bunkers;
use crate::{
    domain::{
        actor::Actor,
        bunker::{Bunker, Spec},
        quota::{self, Amounts, Bucket, Charge, Exceeded},
    },
    failure::{Failure, chain},
    ledger::{LedgerError, Reserved, SharedLedger},
    quotas::on_filled,
};

/// Quota that goes back unless it is kept.
pub(super) struct QuotaReservation {
    ledger: SharedLedger,
    tasks: TaskTracker,
    bunker: BunkerId,
    pub(super) buckets: Vec<Bucket>,
    pub(super) kept: bool,
}

impl Drop for QuotaReservation {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (ledger, bunker) = (self.ledger.clone(), self.bunker);
        self.tasks.spawn(async move {
            if let Err(error) = ledger.release(bunker).await {
                // The reconciler finds a charge without a bunker.
                tracing::warn!(bunker_id = %bunker, error = chain(&error), "cannot give quota back");
            }
        });
    }
}

impl Bunkers {
    /// Charges a new bunker to every bucket of the profiles that apply to its owner, or to none.
    pub(super) async fn reserve_quota(
        &self,
        actor: &Actor,
        bunker: BunkerId,
        spec: &Spec,
    ) -> Result<QuotaReservation, Failure> {
        let (profiles, amounts) = (&actor.quota_profiles, Amounts::of(spec));
        if let Some(exceeded) = profiles.iter().find_map(|profile| profile.exceeded_by_one(amounts))
        {
            return Err(refused(exceeded));
        }
        let buckets = quota::buckets(profiles);
        let charge = Charge { buckets: buckets.clone(), amounts, paused: false };
        let reserve = || self.ledger.reserve(bunker, &charge, profiles);
        granted(on_filled(&self.store, &self.ledger, reserve).await?)?;
        let (ledger, tasks) = (self.ledger.clone(), self.tasks.clone());
        Ok(QuotaReservation { ledger, tasks, bunker, buckets, kept: false })
    }

    /// Takes the CPU of a paused bunker again.
    pub(super) async fn reserve_cpu(&self, actor: &Actor, bunker: &Bunker) -> Result<(), Failure> {
        // The caps are those of the bunker's owner, which an admin that resumes it need not share.
        let profiles = match actor.user_id == bunker.owner_id {
            true => actor.quota_profiles.clone(),
            false => self.credentials.quota_profiles(bunker.owner_id).await?,
        };
        let resume = || self.ledger.resume(bunker.id, &profiles);
        granted(on_filled(&self.store, &self.ledger, resume).await?)
    }

    /// Makes the ledger follow a change that is written down.
    pub(super) async fn settle_quota(&self, before: &Bunker, after: &Bunker) {
        let (id, ledger) = (after.id, &self.ledger);
        let settled = match (before.status(), after.status()) {
            (_, BunkerStatus::Terminated | BunkerStatus::Failed) => {
                ledger.release(id).await.map(drop)
            }
            (_, BunkerStatus::Paused) => ledger.pause(id).await.map(drop),
            (BunkerStatus::Paused, BunkerStatus::Running) => {
                ledger.correct(id, after.charge().as_ref()).await
            }
            _ => Ok(()),
        };
        match settled {
            // Rebuilt from the database, which knows of the change.
            Ok(()) | Err(LedgerError::Lost) => {}
            Err(error) => {
                self.metrics.ledger_failures.inc();
                tracing::warn!(bunker_id = %id, error = chain(&error), "quota does not follow yet");
            }
        }
    }
}

fn granted(reserved: Reserved) -> Result<(), Failure> {
    reserved.map_err(refused)
}

fn refused(exceeded: Exceeded) -> Failure {
    Failure::Refused(exceeded.into())
}

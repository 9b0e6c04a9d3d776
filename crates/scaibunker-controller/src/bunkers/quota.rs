//! What a bunker takes of quotas and of a worker, and that it gives it back.
//!
//! The order makes every step safe to lose: quota is reserved before the row is written, and given
//! back after the row says that the bunker has ended. What a crash leaves in between is found by
//! the quota reconciler, which knows it by the bunker's id.

use std::{collections::BTreeSet, sync::Arc};

use scaibunker_api::{
    bunker::BunkerStatus,
    ids::{BunkerId, WorkerId},
};
use tokio_util::task::TaskTracker;

use super::Bunkers;
use crate::{
    domain::{
        actor::Actor,
        bunker::{Bunker, Spec},
        image::ImageRecord,
        placement::{NoPlace, Shortage},
        quota::{self, Amounts, AppliedProfile, Bucket, Charge, Exceeded},
    },
    failure::{Failure, chain},
    fleet::{Fleet, Place},
    ledger::{LedgerError, Reserved, SharedLedger},
    quotas::on_filled,
};

/// Places that are tried when others keep taking the room.
const ATTEMPTS: usize = 8;

/// A place with room, and quota, that go back unless they are kept.
pub(super) struct Reservation {
    ledger: SharedLedger,
    fleet: Arc<Fleet>,
    tasks: TaskTracker,
    bunker: BunkerId,
    spec: Spec,
    pub(super) place: Place,
    pub(super) buckets: Vec<Bucket>,
    pub(super) kept: bool,
}

impl Reservation {
    /// Keeps the room on the worker for a bunker that is charged for it by now.
    pub(super) async fn hand_over(mut self) -> Result<(), LedgerError> {
        self.kept = true;
        self.ledger.release(self.bunker).await.map(drop)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.fleet.started(self.place.worker_id);
        if self.kept {
            return;
        }
        self.fleet.give_back(self.place.worker_id, &self.spec);
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
    /// Charges a new bunker to every bucket of the profiles that apply to its owner and to a
    /// worker with room, or to none: in one step of the ledger, so that two controllers never give
    /// away the same room. Nobody but `among` is asked, where given.
    pub(super) async fn reserve(
        &self,
        profiles: &[AppliedProfile],
        bunker: BunkerId,
        spec: &Spec,
        image: &ImageRecord,
        among: Option<&BTreeSet<WorkerId>>,
    ) -> Result<Reservation, Failure> {
        let amounts = Amounts::of(spec);
        if let Some(exceeded) = profiles.iter().find_map(|profile| profile.exceeded_by_one(amounts))
        {
            return Err(refused(exceeded));
        }
        let buckets = quota::buckets(profiles);
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            let place = match self.find_place(spec, image, among).await {
                Ok(place) => place,
                // What others gave back meanwhile this process may not have heard of yet.
                Err(_) if attempt == 0 => {
                    self.look_for_room(&self.fleet.ids()).await?;
                    continue;
                }
                Err(reason) => {
                    self.check_quota(bunker, spec, &buckets, profiles).await?;
                    return Err(reason);
                }
            };
            let charge = Charge::new(&buckets, Some(place.worker_id), spec);
            let worker = AppliedProfile::of_worker(place.worker_id, place.capacity);
            let caps: Vec<_> = profiles.iter().cloned().chain([worker]).collect();
            let reserve = || self.ledger.reserve(bunker, &charge, &caps);
            match on_filled(&self.store, &self.ledger, reserve).await? {
                Ok(()) => {
                    self.fleet.take(place.worker_id, spec);
                    let (ledger, fleet) = (self.ledger.clone(), Arc::clone(&self.fleet));
                    let (tasks, spec, kept) = (self.tasks.clone(), spec.clone(), false);
                    let reserved =
                        Reservation { ledger, fleet, tasks, bunker, spec, place, buckets, kept };
                    return Ok(reserved);
                }
                Err(exceeded) if exceeded.bucket == Bucket::Worker(place.worker_id) => {
                    self.look_for_room(&[place.worker_id]).await?;
                    last = Some(exceeded);
                }
                Err(exceeded) => return Err(refused(exceeded)),
            }
        }
        let shortage = last.map(|last| Shortage {
            resource: last.resource.as_str(),
            asked: last.requested,
            largest: last.cap.saturating_sub(last.current),
        });
        Err(NoPlace::NoRoom(shortage.into_iter().collect()).into())
    }

    /// A worker that has the image, or may get it for this bunker.
    async fn find_place(
        &self,
        spec: &Spec,
        record: &ImageRecord,
        among: Option<&BTreeSet<WorkerId>>,
    ) -> Result<Place, Failure> {
        match self.fleet.find_place(spec, &record.image, &[], among) {
            Err(NoPlace::NoImage | NoPlace::NoRoom(_) | NoPlace::TooLarge(_)) => {
                let fetchers = self.images.fetchers(record).await?;
                match self.fleet.find_place(spec, &record.image, &fetchers, among) {
                    Err(NoPlace::NoImage) => Err(self.images.nowhere(record).await?),
                    found => Ok(found?),
                }
            }
            found => Ok(found?),
        }
    }

    /// Of two reasons to refuse a bunker, quota is told before room.
    async fn check_quota(
        &self,
        bunker: BunkerId,
        spec: &Spec,
        buckets: &[Bucket],
        profiles: &[AppliedProfile],
    ) -> Result<(), Failure> {
        let (buckets, amounts) = (buckets.to_vec(), Amounts::of(spec));
        let charge = Charge { buckets, amounts, paused: false };
        let reserve = || self.ledger.reserve(bunker, &charge, profiles);
        granted(on_filled(&self.store, &self.ledger, reserve).await?)?;
        self.ledger.release(bunker).await?;
        Ok(())
    }

    /// Asks the ledger what bunkers take of workers.
    pub async fn look_for_room(&self, workers: &[WorkerId]) -> Result<(), Failure> {
        let buckets: Vec<_> = workers.iter().copied().map(Bucket::Worker).collect();
        let read = || self.ledger.usage(&buckets);
        let counted = on_filled(&self.store, &self.ledger, read).await?;
        let counted: Vec<_> = workers.iter().copied().zip(counted).collect();
        self.fleet.correct(&counted);
        Ok(())
    }

    /// Takes the CPU of a paused bunker again.
    pub(super) async fn reserve_cpu(&self, actor: &Actor, bunker: &Bunker) -> Result<(), Failure> {
        let profiles = self.profiles_of(actor, bunker).await?;
        let resume = || self.ledger.resume(bunker.id, &profiles);
        granted(on_filled(&self.store, &self.ledger, resume).await?)
    }

    /// The caps are those of a bunker's owner, which an admin need not share.
    pub(super) async fn profiles_of(
        &self,
        actor: &Actor,
        bunker: &Bunker,
    ) -> Result<Arc<[AppliedProfile]>, Failure> {
        match actor.user_id == bunker.owner_id {
            true => Ok(Arc::clone(&actor.quota_profiles)),
            false => Ok(self.credentials.quota_profiles(bunker.owner_id).await?),
        }
    }

    /// Makes the ledger follow a change that is written down.
    pub(super) async fn settle_quota(&self, before: &Bunker, after: &Bunker) {
        let (id, ledger) = (after.id, &self.ledger);
        let settled = match (before.status(), after.status()) {
            (_, BunkerStatus::Terminated | BunkerStatus::Failed) => {
                ledger.release(id).await.map(drop)
            }
            (BunkerStatus::Paused, BunkerStatus::Paused) => match after.worker() == before.worker()
            {
                true => Ok(()),
                false => ledger.correct(id, after.charge().as_ref()).await,
            },
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

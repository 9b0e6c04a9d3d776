//! Random histories of bunkers of several users, on a ledger and on a model of it.

use std::collections::HashMap;

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use scaibunker_api::{
    ids::{BunkerId, GroupId, QuotaProfileId, UserId, WorkerId},
    quota::{Caps, Resource},
    worker::Capacity,
};

use super::SharedLedger;
use crate::domain::{
    quota::{Amounts, AppliedProfile, Bucket, Charge, buckets},
    quota_drift::counters_of,
};

const USERS: usize = 3;
const STEPS: usize = 400;

/// One thing that happens. Bunkers are meant by their number modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    Create {
        user: usize,
        amounts: [u64; 6],
    },
    Pause(usize),
    Resume(usize),
    /// Terminated or failed: the ledger does not know the difference.
    End(usize),
    /// The controller dies after the row says that the bunker has ended, and before it gives back;
    /// the reconciler does it later.
    CrashBeforeGivingBack(usize),
    /// The controller dies after it has reserved, and before the row is written.
    CrashBeforeTheRow {
        user: usize,
        amounts: [u64; 6],
    },
    Reconcile,
}

fn amounts() -> impl Strategy<Value = [u64; 6]> {
    (0..2u64, 1..9u64, 1..9u64, 1..9u64, 0..2u64)
        .prop_map(|(persistent, cpu, memory, disk, gpu)| [1, persistent, cpu, memory, disk, gpu])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..USERS, amounts()).prop_map(|(user, amounts)| Step::Create { user, amounts }),
        3 => any::<usize>().prop_map(Step::Pause),
        3 => any::<usize>().prop_map(Step::Resume),
        3 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::CrashBeforeGivingBack),
        1 => (0..USERS, amounts())
            .prop_map(|(user, amounts)| Step::CrashBeforeTheRow { user, amounts }),
        1 => Just(Step::Reconcile),
    ]
}

/// What must be.
struct Model {
    profiles: Vec<Vec<AppliedProfile>>,
    /// Of all workers, of which every user's bunkers are on one.
    workers: Vec<AppliedProfile>,
    charges: HashMap<BunkerId, (usize, Charge)>,
    /// Charged still, though nobody has them any more.
    left_over: HashMap<BunkerId, Charge>,
}

impl Model {
    /// Three users who share a group's caps; the first has two profiles of its own, the second one.
    fn new() -> Self {
        let users: Vec<_> = (0..USERS).map(|_| Bucket::User(UserId::generate())).collect();
        let group = Bucket::Group(GroupId::generate());
        let profile = |bucket, caps| AppliedProfile {
            id: QuotaProfileId::generate(),
            name: "p".to_owned(),
            bucket,
            caps,
        };
        let shared = Caps {
            max_concurrent_bunkers: Some(12),
            max_cpu_millicores: Some(40),
            max_persistent_bunkers: Some(5),
            ..Caps::default()
        };
        let own = Caps { max_memory_mb: Some(20), max_gpu_count: Some(2), ..Caps::default() };
        let few = Caps { max_concurrent_bunkers: Some(4), ..Caps::default() };
        let of_group = profile(group, shared);
        let profiles = vec![
            vec![profile(users[0], own), profile(users[0], few), of_group.clone()],
            vec![profile(users[1], own), of_group.clone()],
            vec![of_group],
        ];
        let capacity = Capacity { cpu_millicores: 60, memory_mb: 45, disk_mb: 1_000, gpu_count: 0 };
        let workers = [WorkerId::generate(), WorkerId::generate()];
        let workers = workers.map(|id| AppliedProfile::of_worker(id, capacity)).into();
        Self { profiles, workers, charges: HashMap::new(), left_over: HashMap::new() }
    }

    fn counters(&self) -> HashMap<Bucket, Amounts> {
        counters_of(self.charges.values().map(|(_, charge)| charge).chain(self.left_over.values()))
    }

    /// What holds a new bunker of a user.
    fn caps(&self, user: usize) -> Vec<AppliedProfile> {
        self.profiles[user].iter().chain([self.worker(user)]).cloned().collect()
    }

    fn worker(&self, user: usize) -> &AppliedProfile {
        &self.workers[user % self.workers.len()]
    }

    fn fits(&self, profiles: &[AppliedProfile], asked: Amounts) -> bool {
        let counters = self.counters();
        profiles.iter().all(|profile| {
            let current = counters.get(&profile.bucket).copied().unwrap_or_default();
            Resource::ALL.into_iter().all(|resource| {
                let asked = asked.get(resource);
                let cap = profile.cap(resource).unwrap_or(u64::MAX);
                asked == 0 || current.get(resource) + asked <= cap
            })
        })
    }

    fn nth(&self, number: usize) -> Option<BunkerId> {
        let mut ids: Vec<_> = self.charges.keys().copied().collect();
        ids.sort_unstable();
        (!ids.is_empty()).then(|| ids[number % ids.len()])
    }

    fn charge(&self, user: usize, amounts: [u64; 6]) -> Charge {
        let mut buckets = buckets(&self.profiles[user]);
        buckets.push(self.worker(user).bucket);
        Charge { buckets, amounts: amounts.into(), paused: false }
    }
}

/// Counters equal the model's after every step.
pub async fn run(ledger: SharedLedger) {
    let mut runner = TestRunner::new(Config::default());
    let steps = proptest::collection::vec(step(), STEPS).new_tree(&mut runner).unwrap().current();
    let mut model = Model::new();
    let (mut taken, mut refused) = (0, 0);
    for (number, step) in steps.iter().enumerate() {
        match step.clone() {
            Step::Create { user, amounts } => {
                let (id, charge) = (BunkerId::generate(), model.charge(user, amounts));
                let caps = model.caps(user);
                let reserved = ledger.reserve(id, &charge, &caps).await.unwrap();
                assert_eq!(
                    reserved.is_ok(),
                    model.fits(&caps, charge.amounts),
                    "{number} {step:?}"
                );
                if reserved.is_ok() {
                    model.charges.insert(id, (user, charge));
                    taken += 1;
                } else {
                    refused += 1;
                }
            }
            Step::CrashBeforeTheRow { user, amounts } => {
                let (id, charge) = (BunkerId::generate(), model.charge(user, amounts));
                if ledger.reserve(id, &charge, &model.caps(user)).await.unwrap().is_ok() {
                    model.left_over.insert(id, charge);
                }
            }
            Step::Pause(which) => {
                let Some(id) = model.nth(which) else { continue };
                let charge = &mut model.charges.get_mut(&id).unwrap().1;
                assert_eq!(ledger.pause(id).await.unwrap(), !charge.paused);
                charge.paused = true;
            }
            Step::Resume(which) => {
                let Some(id) = model.nth(which) else { continue };
                let (user, charge) = model.charges[&id].clone();
                let resumed = ledger.resume(id, &model.profiles[user]).await.unwrap();
                let fits = model.fits(&model.profiles[user], charge.amounts.only_cpu());
                assert_eq!(resumed.is_ok(), !charge.paused || fits, "{number} {step:?}");
                if resumed.is_ok() {
                    model.charges.get_mut(&id).unwrap().1.paused = false;
                }
            }
            Step::End(which) => {
                let Some(id) = model.nth(which) else { continue };
                model.charges.remove(&id);
                assert!(ledger.release(id).await.unwrap());
                assert!(!ledger.release(id).await.unwrap());
            }
            Step::CrashBeforeGivingBack(which) => {
                let Some(id) = model.nth(which) else { continue };
                let (_, charge) = model.charges.remove(&id).unwrap();
                model.left_over.insert(id, charge);
            }
            Step::Reconcile => {
                for id in ledger.snapshot().await.unwrap().charges.into_keys() {
                    if !model.charges.contains_key(&id) {
                        assert!(ledger.release(id).await.unwrap());
                    }
                }
                model.left_over.clear();
            }
        }
        let snapshot = ledger.snapshot().await.unwrap();
        assert_eq!(snapshot.counters, model.counters(), "after step {number}, {step:?}");
    }
    assert!(taken > 20 && refused > 20, "{taken} taken, {refused} refused: a weak history");
}

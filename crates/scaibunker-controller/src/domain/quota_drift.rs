//! Where the quota ledger and the database say different things.

use std::collections::{HashMap, HashSet};

use scaibunker_api::ids::BunkerId;

use super::{
    bunker::Bunker,
    quota::{Amounts, Bucket, Charge},
};

/// One difference. The same one seen twice, with time for every step under way in between, is real.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Difference {
    /// A charge without a live bunker: what a crash leaves between a reservation and its row, or
    /// between a bunker's end and the giving back.
    LeftOver(BunkerId),
    /// A live bunker, unchanged since `generation`, that is charged something else than it must be.
    Mischarged { id: BunkerId, generation: i64, charge: Option<Charge> },
    /// A counter that is not the sum of the charges.
    Miscounted(Bucket),
}

impl Difference {
    /// Whether no crash explains it.
    #[must_use]
    pub fn is_drift(&self) -> bool {
        !matches!(self, Self::LeftOver(_))
    }
}

/// Everything that differs.
#[must_use]
pub fn differences(
    charges: &HashMap<BunkerId, Charge>,
    counters: &HashMap<Bucket, Amounts>,
    live: &[Bunker],
) -> HashSet<Difference> {
    let ids: HashSet<_> = live.iter().map(|bunker| bunker.id).collect();
    let left_over =
        charges.keys().filter(|id| !ids.contains(id)).copied().map(Difference::LeftOver);
    let mischarged = live.iter().filter_map(|bunker| {
        let charge = charges.get(&bunker.id).cloned();
        let (id, generation) = (bunker.id, bunker.generation);
        (charge != bunker.charge()).then_some(Difference::Mischarged { id, generation, charge })
    });
    let expected = counters_of(charges.values());
    let miscounted: HashSet<_> = expected
        .keys()
        .chain(counters.keys())
        .filter(|bucket| expected.get(bucket) != counters.get(bucket))
        .copied()
        .collect();
    left_over.chain(mischarged).chain(miscounted.into_iter().map(Difference::Miscounted)).collect()
}

/// What is counted in each bucket, zeros left out.
#[must_use]
pub fn counters_of<'a>(charges: impl IntoIterator<Item = &'a Charge>) -> HashMap<Bucket, Amounts> {
    let mut sums: HashMap<Bucket, Amounts> = HashMap::new();
    for charge in charges {
        for bucket in &charge.buckets {
            let sum = sums.entry(*bucket).or_default();
            *sum = sum.plus(charge.counted_in(*bucket));
        }
    }
    sums.retain(|_, sum| *sum != Amounts::default());
    sums
}

#[cfg(test)]
mod tests {
    use scaibunker_api::{bunker::BunkerStatus, ids::UserId};

    use super::*;
    use crate::domain::bunker::tests::bunker_in;

    fn owned(status: BunkerStatus, bucket: Bucket) -> Bunker {
        let mut bunker = bunker_in(status);
        bunker.buckets = vec![bucket];
        bunker
    }

    #[test]
    fn each_difference_has_its_name() {
        let bucket = Bucket::User(UserId::generate());
        let running = owned(BunkerStatus::Running, bucket);
        let paused = owned(BunkerStatus::Paused, bucket);
        let charge = running.charge().unwrap();
        let charges =
            HashMap::from([(running.id, charge.clone()), (paused.id, paused.charge().unwrap())]);
        let counters = counters_of(charges.values());
        let live = [running.clone(), paused.clone()];
        assert!(differences(&charges, &counters, &live).is_empty());

        // The bunker is paused, its charge not.
        let mut wrong = charges.clone();
        wrong.insert(paused.id, charge.clone());
        let found = differences(&wrong, &counters_of(wrong.values()), &live);
        let mischarged = Difference::Mischarged {
            id: paused.id,
            generation: paused.generation,
            charge: Some(charge),
        };
        assert_eq!(found, HashSet::from([mischarged]));

        let found = differences(&charges, &counters, &live[..1]);
        assert_eq!(found, HashSet::from([Difference::LeftOver(paused.id)]));
        let mut lost = counters.clone();
        lost.remove(&bucket);
        let found = differences(&charges, &lost, &live);
        assert_eq!(found, HashSet::from([Difference::Miscounted(bucket)]));
        assert!(!Difference::LeftOver(paused.id).is_drift());
    }
}

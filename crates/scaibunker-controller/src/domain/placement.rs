//! Which worker gets a bunker.

use scaibunker_api::{
    error::{ErrorBody, ErrorCode, ErrorDetail},
    ids::WorkerId,
    worker::Capacity,
};

/// A worker that is online and linked.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub worker_id: WorkerId,
    pub capacity: Capacity,
    pub allocated: Capacity,
    pub has_image: bool,
}

/// Why no worker was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPlace {
    /// No worker is online and linked.
    NoWorker,
    /// No candidate has the image.
    NoImage,
    /// More of these than any candidate has in total: it will never fit.
    TooLarge(Vec<Shortage>),
    /// Too much is taken at the moment. Empty when each resource is free somewhere, but on no
    /// worker all of them.
    NoRoom(Vec<Shortage>),
}

/// One resource that there is not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The request's field, such as `memory_mb`.
    pub resource: &'static str,
    pub asked: u64,
    pub largest: u64,
}

/// The candidate with the image that is fullest after taking the bunker (best fit): large gaps
/// stay free for large bunkers.
pub fn choose(candidates: &[Candidate], asked: Capacity) -> Result<WorkerId, NoPlace> {
    if candidates.is_empty() {
        return Err(NoPlace::NoWorker);
    }
    let eligible: Vec<_> = candidates.iter().filter(|worker| worker.has_image).collect();
    if eligible.is_empty() {
        return Err(NoPlace::NoImage);
    }
    eligible
        .iter()
        .filter(|worker| fits(asked, free(worker)))
        .min_by(|a, b| {
            room_left(a, asked)
                .total_cmp(&room_left(b, asked))
                .then_with(|| a.worker_id.cmp(&b.worker_id))
        })
        .map(|worker| worker.worker_id)
        .ok_or_else(|| {
            let totals = shortages(asked, eligible.iter().map(|worker| worker.capacity));
            if totals.is_empty() {
                NoPlace::NoRoom(shortages(asked, eligible.iter().map(|worker| free(worker))))
            } else {
                NoPlace::TooLarge(totals)
            }
        })
}

/// What of `worker` is not allocated.
fn free(worker: &Candidate) -> Capacity {
    let (total, taken) = (worker.capacity, worker.allocated);
    Capacity {
        cpu_millicores: total.cpu_millicores.saturating_sub(taken.cpu_millicores),
        memory_mb: total.memory_mb.saturating_sub(taken.memory_mb),
        disk_mb: total.disk_mb.saturating_sub(taken.disk_mb),
    }
}

fn fits(asked: Capacity, room: Capacity) -> bool {
    asked.cpu_millicores <= room.cpu_millicores
        && asked.memory_mb <= room.memory_mb
        && asked.disk_mb <= room.disk_mb
}

/// The sum of the shares of each resource that stay free.
fn room_left(worker: &Candidate, asked: Capacity) -> f64 {
    let room = free(worker);
    let share = |room: u64, asked: u64, total: u64| (room - asked) as f64 / total.max(1) as f64;
    share(room.cpu_millicores, asked.cpu_millicores, worker.capacity.cpu_millicores)
        + share(room.memory_mb, asked.memory_mb, worker.capacity.memory_mb)
        + share(room.disk_mb, asked.disk_mb, worker.capacity.disk_mb)
}

fn shortages(asked: Capacity, rooms: impl Iterator<Item = Capacity>) -> Vec<Shortage> {
    let largest = rooms.fold(Capacity::default(), |largest, room| Capacity {
        cpu_millicores: largest.cpu_millicores.max(room.cpu_millicores),
        memory_mb: largest.memory_mb.max(room.memory_mb),
        disk_mb: largest.disk_mb.max(room.disk_mb),
    });
    [
        ("cpu_millicores", asked.cpu_millicores, largest.cpu_millicores),
        ("memory_mb", asked.memory_mb, largest.memory_mb),
        ("disk_mb", asked.disk_mb, largest.disk_mb),
    ]
    .into_iter()
    .filter(|(_, asked, largest)| asked > largest)
    .map(|(resource, asked, largest)| Shortage { resource, asked, largest })
    .collect()
}

impl From<NoPlace> for ErrorBody {
    fn from(reason: NoPlace) -> Self {
        let details = |shortages: &[Shortage], what: &str| {
            let detail = |shortage: &Shortage| ErrorDetail {
                field: shortage.resource.to_owned(),
                message: format!(
                    "{} asked for, the largest {what} is {}",
                    shortage.asked, shortage.largest
                ),
            };
            shortages.iter().map(detail).collect::<Vec<_>>()
        };
        let (code, message, details) = match reason {
            NoPlace::NoWorker => (
                ErrorCode::WorkerUnavailable,
                "no worker is linked to this controller; start one, or try again in a moment",
                Vec::new(),
            ),
            NoPlace::NoImage => (
                ErrorCode::NoSuitableWorker,
                "no worker has the image ready; wait for it to be prepared, or name another one",
                Vec::new(),
            ),
            NoPlace::TooLarge(shortages) => (
                ErrorCode::ValidationError,
                "the bunker is larger than every worker; ask for less",
                details(&shortages, "worker's total"),
            ),
            NoPlace::NoRoom(shortages) => (
                ErrorCode::WorkerUnavailable,
                "no worker has enough free; ask for less, wait for bunkers to end, or add a worker",
                details(&shortages, "free amount"),
            ),
        };
        let retry_after = (code == ErrorCode::WorkerUnavailable).then_some(1);
        Self { code, message: message.to_owned(), retry_after, details }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacity(cpu_millicores: u64, memory_mb: u64, disk_mb: u64) -> Capacity {
        Capacity { cpu_millicores, memory_mb, disk_mb }
    }

    fn any_capacity() -> impl Strategy<Value = Capacity> {
        (0u64..10, 0u64..10, 0u64..10).prop_map(|(cpu, memory, disk)| capacity(cpu, memory, disk))
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (any_capacity(), any_capacity(), any::<bool>()).prop_map(
            |(capacity, allocated, has_image)| Candidate {
                worker_id: WorkerId::generate(),
                capacity,
                allocated,
                has_image,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_chosen_fits_and_what_is_refused_fits_nowhere(
            candidates in proptest::collection::vec(any_candidate(), 0..6),
            asked in any_capacity(),
        ) {
            let suits = |worker: &&Candidate| worker.has_image && fits(asked, free(worker));
            match choose(&candidates, asked) {
                Ok(id) => {
                    let worker = candidates.iter().find(|worker| worker.worker_id == id).unwrap();
                    prop_assert!(suits(&worker));
                    for other in candidates.iter().filter(suits) {
                        prop_assert!(room_left(worker, asked) <= room_left(other, asked));
                    }
                }
                Err(_) => prop_assert!(!candidates.iter().any(|worker| suits(&worker))),
            }
        }
    }

    fn worker(capacity: Capacity, allocated: Capacity) -> Candidate {
        Candidate { worker_id: WorkerId::generate(), capacity, allocated, has_image: true }
    }

    #[test]
    fn each_refusal_has_its_own_cause() {
        let asked = capacity(1, 2, 3);
        assert_eq!(choose(&[], asked), Err(NoPlace::NoWorker));
        let without =
            Candidate { has_image: false, ..worker(capacity(9, 9, 9), capacity(0, 0, 0)) };
        assert_eq!(choose(&[without], asked), Err(NoPlace::NoImage));
        let small = worker(capacity(9, 1, 9), capacity(0, 0, 0));
        let shortage = Shortage { resource: "memory_mb", asked: 2, largest: 1 };
        assert_eq!(choose(&[small], asked), Err(NoPlace::TooLarge(vec![shortage])));
        let full = worker(capacity(9, 9, 9), capacity(9, 8, 0));
        let cpu = Shortage { resource: "cpu_millicores", asked: 1, largest: 0 };
        assert_eq!(choose(&[full], asked), Err(NoPlace::NoRoom(vec![cpu, shortage])));
    }

    #[test]
    fn the_fullest_worker_that_fits_is_taken() {
        let empty = worker(capacity(9, 9, 9), capacity(0, 0, 0));
        let fuller = worker(capacity(9, 9, 9), capacity(5, 5, 5));
        assert_eq!(choose(&[empty, fuller], capacity(1, 1, 1)), Ok(fuller.worker_id));
        assert_eq!(choose(&[empty, fuller], capacity(6, 6, 6)), Ok(empty.worker_id));
    }
}

//! Which worker gets a bunker.

use scaibunker_api::{
    bunker::NetworkProfile,
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
    /// Starts under way there.
    pub starting: u32,
}

/// Why no worker was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPlace {
    /// No worker is online and linked.
    NoWorker,
    /// An operator has drained every worker that is.
    Drained,
    /// No candidate has GPUs of this kind.
    NoGpu(String),
    /// No candidate can give it such a network.
    NoNetwork(NetworkProfile),
    /// No candidate has the bridges.
    NoBridge,
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

/// Starts at the same time that a worker takes in its stride; of a burst, the others go elsewhere.
const STARTS_AT_ONCE: u32 = 4;

/// Of `workers`, the one with the image that is fullest after taking the bunker (best fit): large
/// gaps stay free for large bunkers. One that is busy with other starts comes after those that are
/// not.
///
/// There may be ten thousand: whether one has the image, which takes longest to find out, is asked
/// only of those that would be chosen.
pub fn choose<W: Copy>(
    workers: impl Iterator<Item = W> + Clone,
    candidate: impl Fn(W) -> Candidate,
    has_image: impl Fn(W) -> bool,
    asked: Capacity,
) -> Result<W, NoPlace> {
    let mut best: Option<(W, Rank)> = None;
    for worker in workers.clone() {
        let seen = candidate(worker);
        if fits(asked, free(&seen)) {
            let rank = Rank::of(&seen, asked);
            if best.as_ref().is_none_or(|(_, best)| rank.is_before(best)) && has_image(worker) {
                best = Some((worker, rank));
            }
        }
    }
    if let Some((worker, _)) = best {
        return Ok(worker);
    }
    if workers.clone().next().is_none() {
        return Err(NoPlace::NoWorker);
    }
    let eligible: Vec<_> = workers.filter(|worker| has_image(*worker)).map(candidate).collect();
    if eligible.is_empty() {
        return Err(NoPlace::NoImage);
    }
    // A fleet without GPUs may get some: that they are missing is not the request's fault.
    let asked_of_any = Capacity { gpu_count: 0, ..asked };
    let totals = shortages(asked_of_any, eligible.iter().map(|worker| worker.capacity));
    if totals.is_empty() {
        return Err(NoPlace::NoRoom(shortages(asked, eligible.iter().map(free))));
    }
    Err(NoPlace::TooLarge(totals))
}

/// How soon a worker is chosen.
struct Rank {
    busy: u32,
    room_left: f64,
    worker_id: WorkerId,
}

impl Rank {
    fn of(worker: &Candidate, asked: Capacity) -> Self {
        let busy = worker.starting / STARTS_AT_ONCE;
        Self { busy, room_left: room_left(worker, asked), worker_id: worker.worker_id }
    }

    fn is_before(&self, other: &Self) -> bool {
        let order = self.busy.cmp(&other.busy);
        let order = order.then_with(|| self.room_left.total_cmp(&other.room_left));
        order.then_with(|| self.worker_id.cmp(&other.worker_id)).is_lt()
    }
}

/// What of `worker` is not allocated.
fn free(worker: &Candidate) -> Capacity {
    let (total, taken) = (worker.capacity, worker.allocated);
    Capacity {
        cpu_millicores: total.cpu_millicores.saturating_sub(taken.cpu_millicores),
        memory_mb: total.memory_mb.saturating_sub(taken.memory_mb),
        disk_mb: total.disk_mb.saturating_sub(taken.disk_mb),
        gpu_count: total.gpu_count.saturating_sub(taken.gpu_count),
    }
}

fn fits(asked: Capacity, room: Capacity) -> bool {
    asked.cpu_millicores <= room.cpu_millicores
        && asked.memory_mb <= room.memory_mb
        && asked.disk_mb <= room.disk_mb
        && asked.gpu_count <= room.gpu_count
}

/// The sum of the shares of each resource that stay free.
fn room_left(worker: &Candidate, asked: Capacity) -> f64 {
    let room = free(worker);
    let share = |room: u64, asked: u64, total: u64| (room - asked) as f64 / total.max(1) as f64;
    share(room.cpu_millicores, asked.cpu_millicores, worker.capacity.cpu_millicores)
        + share(room.memory_mb, asked.memory_mb, worker.capacity.memory_mb)
        + share(room.disk_mb, asked.disk_mb, worker.capacity.disk_mb)
        // Who needs no GPU goes where none is left free.
        + share(room.gpu_count, asked.gpu_count, worker.capacity.gpu_count)
}

fn shortages(asked: Capacity, rooms: impl Iterator<Item = Capacity>) -> Vec<Shortage> {
    let largest = rooms.fold(Capacity::default(), |largest, room| Capacity {
        cpu_millicores: largest.cpu_millicores.max(room.cpu_millicores),
        memory_mb: largest.memory_mb.max(room.memory_mb),
        disk_mb: largest.disk_mb.max(room.disk_mb),
        gpu_count: largest.gpu_count.max(room.gpu_count),
    });
    [
        ("cpu_millicores", asked.cpu_millicores, largest.cpu_millicores),
        ("memory_mb", asked.memory_mb, largest.memory_mb),
        ("disk_mb", asked.disk_mb, largest.disk_mb),
        ("gpu_count", asked.gpu_count, largest.gpu_count),
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
            NoPlace::Drained => (
                ErrorCode::WorkerUnavailable,
                "every worker that is online is drained; start another one, or have one take bunkers \
                 again with `POST /workers/{id}/resume`",
                Vec::new(),
            ),
            NoPlace::NoGpu(kind) => (
                ErrorCode::WorkerUnavailable,
                "no worker that takes bunkers has such GPUs; `GET /workers` lists those there are",
                vec![ErrorDetail {
                    field: "gpu_type".to_owned(),
                    message: format!("`{kind}` asked for"),
                }],
            ),
            NoPlace::NoNetwork(profile) => (
                ErrorCode::NoSuitableWorker,
                "no worker that takes bunkers can give them networks; its log says why, and so does \
                 `scaibunker doctor` there",
                vec![ErrorDetail {
                    field: "network_profile".to_owned(),
                    message: format!("`{}` asked for", profile.as_str()),
                }],
            ),
            NoPlace::NoBridge => (
                ErrorCode::NoSuitableWorker,
                "the workers with these bridges take no bunkers at the moment; `GET /workers` tells why",
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
        Capacity { cpu_millicores, memory_mb, disk_mb, gpu_count: 0 }
    }

    fn any_capacity() -> impl Strategy<Value = Capacity> {
        (0u64..10, 0u64..10, 0u64..10).prop_map(|(cpu, memory, disk)| capacity(cpu, memory, disk))
    }

    /// And whether it has the image.
    type Worker = (Candidate, bool);

    fn chosen(workers: &[Worker], asked: Capacity) -> Result<&Worker, NoPlace> {
        choose(workers.iter(), |worker| worker.0, |worker| worker.1, asked)
    }

    fn any_worker() -> impl Strategy<Value = Worker> {
        (any_capacity(), any_capacity(), 0u32..12, any::<bool>()).prop_map(
            |(capacity, allocated, starting, has_image)| {
                let worker_id = WorkerId::generate();
                (Candidate { worker_id, capacity, allocated, starting }, has_image)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_chosen_fits_and_what_is_refused_fits_nowhere(
            workers in proptest::collection::vec(any_worker(), 0..6),
            asked in any_capacity(),
        ) {
            let suits = |worker: &&Worker| worker.1 && fits(asked, free(&worker.0));
            match chosen(&workers, asked) {
                Ok(worker) => {
                    prop_assert!(suits(&worker));
                    let busy = |worker: &Worker| worker.0.starting / STARTS_AT_ONCE;
                    let left = |worker: &Worker| room_left(&worker.0, asked);
                    for other in workers.iter().filter(suits) {
                        prop_assert!(busy(worker) <= busy(other));
                        prop_assert!(busy(worker) < busy(other) || left(worker) <= left(other));
                    }
                }
                Err(_) => prop_assert!(!workers.iter().any(|worker| suits(&worker))),
            }
        }
    }

    fn worker(capacity: Capacity, allocated: Capacity) -> Worker {
        let worker_id = WorkerId::generate();
        (Candidate { worker_id, capacity, allocated, starting: 0 }, true)
    }

    #[test]
    fn each_refusal_has_its_own_cause() {
        let asked = capacity(1, 2, 3);
        assert_eq!(chosen(&[], asked).unwrap_err(), NoPlace::NoWorker);
        let without = (worker(capacity(9, 9, 9), capacity(0, 0, 0)).0, false);
        assert_eq!(chosen(&[without], asked).unwrap_err(), NoPlace::NoImage);
        let small = worker(capacity(9, 1, 9), capacity(0, 0, 0));
        let shortage = Shortage { resource: "memory_mb", asked: 2, largest: 1 };
        assert_eq!(chosen(&[small], asked).unwrap_err(), NoPlace::TooLarge(vec![shortage]));
        let full = worker(capacity(9, 9, 9), capacity(9, 8, 0));
        let cpu = Shortage { resource: "cpu_millicores", asked: 1, largest: 0 };
        assert_eq!(chosen(&[full], asked).unwrap_err(), NoPlace::NoRoom(vec![cpu, shortage]));
    }

    #[test]
    fn the_fullest_worker_that_fits_is_taken() {
        let empty = worker(capacity(9, 9, 9), capacity(0, 0, 0));
        let fuller = worker(capacity(9, 9, 9), capacity(5, 5, 5));
        let both = [empty, fuller];
        let of = |workers, asked| chosen(workers, asked).unwrap().0.worker_id;
        assert_eq!(of(&both, capacity(1, 1, 1)), fuller.0.worker_id);
        assert_eq!(of(&both, capacity(6, 6, 6)), empty.0.worker_id);
        let busy = [empty, (Candidate { starting: STARTS_AT_ONCE, ..fuller.0 }, true)];
        assert_eq!(of(&busy, capacity(1, 1, 1)), empty.0.worker_id);
    }
}

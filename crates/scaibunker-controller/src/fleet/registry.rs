//! The registry of workers and the ledger of their resources.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use scaibunker_api::{
    ids::{BunkerId, ImageId, WorkerId},
    image::{CacheStatus, Image},
    worker::{Capacity, ImageReport, ReadyImage, Worker, WorkerStatus},
};
use tokio::time::Instant;

use super::link::Link;
use crate::domain::{
    bunker::{Bunker, Spec},
    placement::{self, Candidate, NoPlace},
    worker::WorkerRecord,
};

/// Every worker that ever registered.
#[derive(Debug)]
pub struct Fleet {
    /// A worker that was not heard of for this long is offline.
    stale_after: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seats: BTreeMap<WorkerId, Seat>,
    /// What each bunker that is not terminal takes, and where.
    placements: HashMap<BunkerId, (WorkerId, Capacity)>,
}

#[derive(Debug)]
struct Seat {
    record: WorkerRecord,
    /// What it last said of images that it does not bring along.
    image_cache: Vec<ImageReport>,
    /// Since the process started nobody was silent for longer than the process runs.
    heard_at: Instant,
    link: Option<Link>,
    allocated: Capacity,
}

/// Where a bunker goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub worker_id: WorkerId,
    /// Else the worker has to get the image first.
    pub has_image: bool,
}

/// What a heartbeat told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The worker must register first.
    Unknown,
    Known {
        images_changed: bool,
    },
}

impl Fleet {
    /// The fleet as the database describes it, none of it linked.
    #[must_use]
    pub fn restore(workers: Vec<WorkerRecord>, live: &[Bunker], stale_after: Duration) -> Self {
        let now = Instant::now();
        let mut state = State::default();
        for record in workers {
            let seat = Seat {
                record,
                image_cache: Vec::new(),
                heard_at: now,
                link: None,
                allocated: Capacity::default(),
            };
            state.seats.insert(seat.record.id, seat);
        }
        for bunker in live {
            state.allocate(bunker.id, bunker.worker_id, taken_by(&bunker.spec));
        }
        Self { stale_after, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step below panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a registration, first or repeated, in.
    pub fn register(&self, record: WorkerRecord) {
        let mut state = self.state();
        let heard_at = Instant::now();
        let id = record.id;
        match state.seats.get_mut(&id) {
            Some(seat) => {
                seat.record = record;
                seat.heard_at = heard_at;
            }
            None => {
                let (link, allocated) = (None, Capacity::default());
                let image_cache = Vec::new();
                state.seats.insert(id, Seat { record, image_cache, heard_at, link, allocated });
            }
        }
    }

    /// Notes that the worker is alive.
    pub fn heard_from(&self, id: WorkerId, images: &[ReadyImage], at: Timestamp) -> Heard {
        let mut state = self.state();
        let Some(seat) = state.seats.get_mut(&id) else { return Heard::Unknown };
        seat.heard_at = Instant::now();
        seat.record.last_heartbeat = at;
        Heard::Known { images_changed: seat.record.images != images }
    }

    /// A worker's record.
    pub fn record(&self, id: WorkerId) -> Option<WorkerRecord> {
        self.state().seats.get(&id).map(|seat| seat.record.clone())
    }

    /// Makes `link` the way to its worker; a link that the worker had before is given back.
    pub fn attach(&self, link: Link) -> Option<Link> {
        let mut state = self.state();
        let seat = state.seats.get_mut(&link.worker_id())?;
        seat.link.replace(link)
    }

    /// Forgets `link`, unless another one has taken its place.
    pub fn detach(&self, link: &Link) {
        let mut state = self.state();
        if let Some(seat) = state.seats.get_mut(&link.worker_id()) {
            seat.link.take_if(|current| current.is(link));
        }
    }

    /// The way to a worker.
    pub fn link(&self, id: WorkerId) -> Option<Link> {
        self.state().seats.get(&id)?.link.clone()
    }

    /// Finds room for a bunker and takes it, in one step. `fetchers` may be chosen without having
    /// the image, if no worker has it.
    pub fn reserve(
        &self,
        bunker: BunkerId,
        spec: &Spec,
        image: &Image,
        fetchers: &[WorkerId],
    ) -> Result<Placed, NoPlace> {
        let mut state = self.state();
        let candidates: Vec<_> = state
            .seats
            .values()
            .filter(|seat| seat.link.is_some() && self.is_fresh(seat))
            .map(|seat| Candidate {
                worker_id: seat.record.id,
                capacity: seat.record.capacity,
                allocated: seat.allocated,
                has_image: seat.has(image),
            })
            .collect();
        let asked = taken_by(spec);
        let (worker_id, has_image) = match placement::choose(&candidates, asked) {
            Err(NoPlace::NoImage) => {
                let fetching = candidates.into_iter().filter(|c| fetchers.contains(&c.worker_id));
                let fetching: Vec<_> =
                    fetching.map(|c| Candidate { has_image: true, ..c }).collect();
                if fetching.is_empty() {
                    return Err(NoPlace::NoImage);
                }
                (placement::choose(&fetching, asked)?, false)
            }
            chosen => (chosen?, true),
        };
        state.allocate(bunker, worker_id, asked);
        Ok(Placed { worker_id, has_image })
    }

    /// Takes in what a worker says of images, and returns what it said before.
    pub fn note_images(&self, id: WorkerId, reports: &[ImageReport]) -> Vec<ImageReport> {
        match self.state().seats.get_mut(&id) {
            Some(seat) => std::mem::replace(&mut seat.image_cache, reports.to_vec()),
            None => Vec::new(),
        }
    }

    /// Takes in what a worker says of one image.
    pub fn note_image(&self, id: WorkerId, report: &ImageReport) {
        if let Some(seat) = self.state().seats.get_mut(&id) {
            seat.image_cache.retain(|other| other.image_id != report.image_id);
            seat.image_cache.push(report.clone());
        }
    }

    /// Has the next report of an image count as new.
    pub fn forget_report(&self, id: WorkerId, image: ImageId) {
        if let Some(seat) = self.state().seats.get_mut(&id) {
            seat.image_cache.retain(|report| report.image_id != image);
        }
    }

    /// The linked workers that can start bunkers from an image, and when each was heard of.
    pub fn workers_with(&self, image: &Image) -> Vec<(WorkerId, Timestamp)> {
        let state = self.state();
        let holders = state.seats.values().filter(|seat| seat.link.is_some() && seat.has(image));
        holders.map(|seat| (seat.record.id, seat.record.last_heartbeat)).collect()
    }

    /// Gives back what the bunker has taken. Doing it again changes nothing.
    pub fn release(&self, bunker: BunkerId) {
        let mut state = self.state();
        let Some((worker_id, taken)) = state.placements.remove(&bunker) else { return };
        if let Some(seat) = state.seats.get_mut(&worker_id) {
            seat.allocated = Capacity {
                cpu_millicores: seat.allocated.cpu_millicores.saturating_sub(taken.cpu_millicores),
                memory_mb: seat.allocated.memory_mb.saturating_sub(taken.memory_mb),
                disk_mb: seat.allocated.disk_mb.saturating_sub(taken.disk_mb),
            };
        }
    }

    /// Whether a worker can be given bunkers now.
    pub fn has_linked_worker(&self) -> bool {
        self.state().seats.values().any(|seat| seat.link.is_some())
    }

    /// Every worker, newest first.
    pub fn workers(&self) -> Vec<Worker> {
        self.state().seats.values().rev().map(|seat| self.shown(seat)).collect()
    }

    /// One worker.
    pub fn worker(&self, id: WorkerId) -> Option<Worker> {
        self.state().seats.get(&id).map(|seat| self.shown(seat))
    }

    /// How long a worker may be silent.
    pub fn stale_after(&self) -> Duration {
        self.stale_after
    }

    /// The workers that this process has not heard of for too long.
    pub fn silent_workers(&self) -> Vec<WorkerId> {
        let state = self.state();
        let silent = state.seats.values().filter(|seat| !self.is_fresh(seat));
        silent.map(|seat| seat.record.id).collect()
    }

    /// The workers that have a link.
    pub fn linked_workers(&self) -> Vec<WorkerId> {
        let state = self.state();
        let linked = state.seats.values().filter(|seat| seat.link.is_some());
        linked.map(|seat| seat.record.id).collect()
    }

    fn is_fresh(&self, seat: &Seat) -> bool {
        seat.heard_at.elapsed() < self.stale_after
    }

    fn shown(&self, seat: &Seat) -> Worker {
        let record = seat.record.clone();
        let status = if self.is_fresh(seat) { WorkerStatus::Online } else { WorkerStatus::Offline };
        Worker {
            id: record.id,
            name: record.name,
            status,
            last_heartbeat: Some(record.last_heartbeat),
            version: record.version,
            engine: record.engine,
            capacity: record.capacity,
            allocated: seat.allocated,
            images: record.images,
            image_cache: seat.image_cache.clone(),
        }
    }
}

impl State {
    fn allocate(&mut self, bunker: BunkerId, worker: WorkerId, taken: Capacity) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.allocated.cpu_millicores += taken.cpu_millicores;
            seat.allocated.memory_mb += taken.memory_mb;
            seat.allocated.disk_mb += taken.disk_mb;
            self.placements.insert(bunker, (worker, taken));
        }
    }
}

impl Seat {
    /// Whether bunkers can be started from the image here: it comes with the worker, or is ready.
    fn has(&self, image: &Image) -> bool {
        let is_it = |digest: &String| Some(digest) == image.digest.as_ref();
        let is_ready = |report: &ImageReport| {
            report.image_id == image.id && report.status == CacheStatus::Ready
        };
        let mut built_in = self.record.images.iter();
        built_in.any(|ready| ready.name == image.name && is_it(&ready.digest))
            || self.image_cache.iter().any(is_ready)
    }
}

fn taken_by(spec: &Spec) -> Capacity {
    Capacity {
        cpu_millicores: spec.cpu_millicores.into(),
        memory_mb: spec.memory_mb.into(),
        disk_mb: spec.disk_mb.into(),
    }
}

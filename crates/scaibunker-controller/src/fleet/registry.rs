//! The registry of workers and the ledger of their resources.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use scaibunker_api::{
    ids::{BunkerId, ImageId, WorkerId},
    image::Image,
    worker::{Capacity, ReadyImage, Worker, WorkerStatus},
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
    images: BTreeMap<ImageId, Image>,
    /// What each bunker that is not terminal takes, and where.
    placements: HashMap<BunkerId, (WorkerId, Capacity)>,
}

#[derive(Debug)]
struct Seat {
    record: WorkerRecord,
    /// Since the process started nobody was silent for longer than the process runs.
    heard_at: Instant,
    link: Option<Link>,
    allocated: Capacity,
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
    pub fn restore(
        workers: Vec<WorkerRecord>,
        images: Vec<Image>,
        live: &[Bunker],
        stale_after: Duration,
    ) -> Self {
        let now = Instant::now();
        let mut state = State {
            images: images.into_iter().map(|image| (image.id, image)).collect(),
            ..State::default()
        };
        for record in workers {
            let seat = Seat { heard_at: now, link: None, allocated: Capacity::default(), record };
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
    pub fn register(&self, record: WorkerRecord, images: Vec<Image>) {
        let mut state = self.state();
        state.images.extend(images.into_iter().map(|image| (image.id, image)));
        let heard_at = Instant::now();
        let id = record.id;
        match state.seats.get_mut(&id) {
            Some(seat) => {
                seat.record = record;
                seat.heard_at = heard_at;
            }
            None => {
                let (link, allocated) = (None, Capacity::default());
                state.seats.insert(id, Seat { record, heard_at, link, allocated });
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

    /// Finds room for a bunker and takes it, in one step.
    pub fn reserve(
        &self,
        bunker: BunkerId,
        spec: &Spec,
        image: &Image,
    ) -> Result<WorkerId, NoPlace> {
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
        let worker_id = placement::choose(&candidates, asked)?;
        state.allocate(bunker, worker_id, asked);
        Ok(worker_id)
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

    /// The image that `name` means: an id, `name@digest` or a name. Of several images with one
    /// name the newest that a linked worker has is meant, else the newest.
    pub fn image(&self, name: &str) -> Option<Image> {
        let state = self.state();
        if let Ok(id) = name.parse::<ImageId>() {
            return state.images.get(&id).cloned();
        }
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (name, None),
        };
        let is_at_hand =
            |image: &Image| state.seats.values().any(|seat| seat.link.is_some() && seat.has(image));
        state
            .images
            .values()
            .filter(|image| {
                image.name == name
                    && digest.is_none_or(|digest| image.digest.as_deref() == Some(digest))
            })
            .max_by_key(|image| (is_at_hand(image), image.id))
            .cloned()
    }

    /// The images that workers have, newest first.
    pub fn images(&self) -> Vec<Image> {
        let state = self.state();
        let is_held = |image: &&Image| state.seats.values().any(|seat| seat.has(image));
        state.images.values().rev().filter(is_held).cloned().collect()
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
            image_cache: Vec::new(),
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
    fn has(&self, image: &Image) -> bool {
        let ready = &self.record.images;
        ready
            .iter()
            .any(|ready| ready.name == image.name && Some(&ready.digest) == image.digest.as_ref())
    }
}

fn taken_by(spec: &Spec) -> Capacity {
    Capacity {
        cpu_millicores: spec.cpu_millicores.into(),
        memory_mb: spec.memory_mb.into(),
        disk_mb: spec.disk_mb.into(),
    }
}

//! The registry of workers: who they are, what they have, how they are reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{ImageId, WorkerId},
    image::{CacheStatus, Image},
    quota::Resource,
    worker::{Capacity, ImageReport, ReadyImage, Worker, WorkerStatus},
};
use tokio::time::Instant;

use super::link::Link;
use crate::domain::{
    bunker::{Bunker, Spec},
    placement::{self, Candidate, NoPlace},
    quota::Amounts,
    snapshot::Machine,
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
}

#[derive(Debug)]
struct Seat {
    record: WorkerRecord,
    /// What it last said of images that it does not bring along.
    image_cache: Vec<ImageReport>,
    /// Since the process started nobody was silent for longer than the process runs.
    heard_at: Instant,
    link: Option<Link>,
    /// What bunkers take here, as far as this process knows. The ledger is right about it, and
    /// other controllers change that at any time.
    allocated: Capacity,
    /// Bunkers here, likewise.
    bunkers: u64,
    /// Starts that this process has under way here.
    starting: u32,
}

/// Where a bunker may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub worker_id: WorkerId,
    pub capacity: Capacity,
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
                bunkers: 0,
                starting: 0,
            };
            state.seats.insert(seat.record.id, seat);
        }
        for bunker in live {
            let seat = bunker.worker().and_then(|worker| state.seats.get_mut(&worker));
            if let Some(seat) = seat {
                seat.allocated = sum(seat.allocated, taken_by(&bunker.spec));
                seat.bunkers += 1;
            }
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
                let seat = Seat {
                    record,
                    image_cache: Vec::new(),
                    heard_at,
                    link: None,
                    allocated: Capacity::default(),
                    bunkers: 0,
                    starting: 0,
                };
                state.seats.insert(id, seat);
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

    /// The way to a worker, or an error with this message that asks the caller to try again.
    pub fn link_or(&self, id: WorkerId, message: &str) -> Result<Link, ErrorBody> {
        self.link(id).ok_or_else(|| {
            let error = ErrorBody::new(ErrorCode::WorkerUnavailable, message);
            ErrorBody { retry_after: Some(2), ..error }
        })
    }

    /// Finds a place for a bunker. Whether there is room the ledger says, when it is taken.
    /// `fetchers` may be chosen without having the image, if there is no room where it is. Nobody but
    /// `bridged` is, where given.
    pub fn find_place(
        &self,
        spec: &Spec,
        image: &Image,
        fetchers: &[WorkerId],
        bridged: Option<&BTreeSet<WorkerId>>,
    ) -> Result<Place, NoPlace> {
        let state = self.state();
        let now = Instant::now();
        let is_reachable = |seat: &&Seat| seat.link.is_some() && self.is_fresh_at(seat, now);
        let reachable = state.seats.values().filter(is_reachable);
        let open = reachable.clone().filter(|seat| seat.record.drained_at.is_none());
        let has_kind = |seat: &&Seat| match &spec.gpu_type {
            Some(kind) => seat.record.gpu_type.as_ref() == Some(kind),
            None => true,
        };
        let has_network =
            |seat: &&Seat| seat.record.network_profiles.contains(&spec.network_profile);
        let has_bridges =
            |seat: &&Seat| bridged.is_none_or(|bridged| bridged.contains(&seat.record.id));
        let suited = open.clone().filter(has_kind).filter(has_network).filter(has_bridges);
        let asked = taken_by(spec);
        let place = |seat: &Seat, has_image| Place {
            worker_id: seat.record.id,
            capacity: seat.record.capacity,
            has_image,
        };
        match placement::choose(suited.clone(), Seat::candidate, |seat| seat.has(image), asked) {
            Ok(seat) => Ok(place(seat, true)),
            // Nobody is suited at all.
            Err(NoPlace::NoWorker) => Err(match spec.gpu_type.clone() {
                _ if reachable.clone().next().is_none() => NoPlace::NoWorker,
                _ if open.clone().next().is_none() => NoPlace::Drained,
                Some(kind) if open.clone().find(has_kind).is_none() => NoPlace::NoGpu(kind),
                _ if open.clone().find(has_network).is_none() => {
                    NoPlace::NoNetwork(spec.network_profile)
                }
                _ => NoPlace::NoBridge,
            }),
            Err(reason) => {
                let fetching = suited.filter(|seat| fetchers.contains(&seat.record.id));
                match placement::choose(fetching, Seat::candidate, |_| true, asked) {
                    Ok(seat) => Ok(place(seat, false)),
                    // What keeps the bunker from the workers with the image says more.
                    Err(NoPlace::NoWorker) => Err(reason),
                    Err(other) if reason == NoPlace::NoImage => Err(other),
                    Err(_) => Err(reason),
                }
            }
        }
    }

    /// Notes that a bunker has room on a worker, and that it is about to be started there.
    pub fn take(&self, worker: WorkerId, spec: &Spec) {
        if let Some(seat) = self.state().seats.get_mut(&worker) {
            seat.allocated = sum(seat.allocated, taken_by(spec));
            seat.bunkers += 1;
            seat.starting += 1;
        }
    }

    /// Notes that a start is over, however it ended.
    pub fn started(&self, worker: WorkerId) {
        if let Some(seat) = self.state().seats.get_mut(&worker) {
            seat.starting = seat.starting.saturating_sub(1);
        }
    }

    /// Notes that a bunker has no room on a worker any more.
    pub fn give_back(&self, worker: WorkerId, spec: &Spec) {
        if let Some(seat) = self.state().seats.get_mut(&worker) {
            seat.allocated = difference(seat.allocated, taken_by(spec));
            seat.bunkers = seat.bunkers.saturating_sub(1);
        }
    }

    /// Takes over what the ledger counts on workers.
    pub fn correct(&self, counted: &[(WorkerId, Amounts)]) {
        let mut state = self.state();
        for (worker, amounts) in counted {
            if let Some(seat) = state.seats.get_mut(worker) {
                seat.allocated = Capacity {
                    cpu_millicores: amounts.get(Resource::CpuMillicores),
                    memory_mb: amounts.get(Resource::MemoryMb),
                    disk_mb: amounts.get(Resource::DiskMb),
                    gpu_count: amounts.get(Resource::GpuCount),
                };
                seat.bunkers = amounts.get(Resource::ConcurrentBunkers);
            }
        }
    }

    /// Takes over which workers there are, and which of them are drained. One that is linked stays:
    /// it was made after they were read.
    pub fn follow(&self, workers: &[(WorkerId, Option<Timestamp>)]) {
        let known: BTreeMap<_, _> = workers.iter().copied().collect();
        self.state().seats.retain(|id, seat| match known.get(id) {
            Some(drained_at) => {
                seat.record.drained_at = *drained_at;
                true
            }
            None => seat.link.is_some() || self.is_fresh(seat),
        });
    }

    /// Notes that a worker takes no new bunkers, or takes them again.
    pub fn set_drained(&self, id: WorkerId, at: Option<Timestamp>) {
        if let Some(seat) = self.state().seats.get_mut(&id) {
            seat.record.drained_at = at;
        }
    }

    /// Forgets a worker.
    pub fn remove(&self, id: WorkerId) {
        self.state().seats.remove(&id);
    }

    /// The ids of all workers.
    pub fn ids(&self) -> Vec<WorkerId> {
        self.state().seats.keys().copied().collect()
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

    /// What workers last said of an image.
    pub fn reports_of(&self, image: ImageId) -> Vec<(WorkerId, ImageReport)> {
        let state = self.state();
        let reports = state.seats.values().flat_map(|seat| {
            let of_image = seat.image_cache.iter().filter(|report| report.image_id == image);
            of_image.map(|report| (seat.record.id, report.clone()))
        });
        reports.collect()
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

    /// Whether a linked worker can start bunkers from an image.
    pub fn has_image(&self, image: &Image) -> bool {
        self.state().seats.values().any(|seat| seat.link.is_some() && seat.has(image))
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

    /// What a worker's bunkers run on.
    pub fn machine(&self, id: WorkerId) -> Option<Machine> {
        self.state().seats.get(&id).map(Seat::machine)
    }

    /// The workers that have a link, on which a bunker's memory can go on.
    pub fn workers_like(&self, machine: &Machine) -> BTreeSet<WorkerId> {
        let state = self.state();
        let linked = state.seats.values().filter(|seat| seat.link.is_some());
        linked.filter(|seat| seat.machine() == *machine).map(|seat| seat.record.id).collect()
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

    /// Whether this process has heard of the worker lately.
    pub fn is_alive(&self, id: WorkerId) -> bool {
        self.state().seats.get(&id).is_some_and(|seat| self.is_fresh(seat))
    }

    /// The workers that have a link.
    pub fn linked_workers(&self) -> Vec<WorkerId> {
        let state = self.state();
        let linked = state.seats.values().filter(|seat| seat.link.is_some());
        linked.map(|seat| seat.record.id).collect()
    }

    fn is_fresh(&self, seat: &Seat) -> bool {
        self.is_fresh_at(seat, Instant::now())
    }

    /// For many seats: the clock is read once.
    fn is_fresh_at(&self, seat: &Seat, now: Instant) -> bool {
        now.duration_since(seat.heard_at) < self.stale_after
    }

    fn shown(&self, seat: &Seat) -> Worker {
        let record = seat.record.clone();
        let status = match record.drained_at {
            _ if !self.is_fresh(seat) => WorkerStatus::Offline,
            None => WorkerStatus::Online,
            Some(_) if seat.bunkers > 0 => WorkerStatus::Draining,
            Some(_) => WorkerStatus::Drained,
        };
        Worker {
            id: record.id,
            name: record.name,
            status,
            last_heartbeat: Some(record.last_heartbeat),
            version: record.version,
            engine: record.engine,
            cpu_class: record.cpu_class,
            capacity: record.capacity,
            allocated: seat.allocated,
            gpu_type: record.gpu_type,
            bunkers: seat.bunkers,
            drained_at: record.drained_at,
            images: record.images,
            network_profiles: record.network_profiles,
            image_cache: seat.image_cache.clone(),
        }
    }
}

impl Seat {
    fn machine(&self) -> Machine {
        let (engine, cpu_class) = (self.record.engine.clone(), self.record.cpu_class.clone());
        Machine { engine, cpu_class }
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            worker_id: self.record.id,
            capacity: self.record.capacity,
            allocated: self.allocated,
            starting: self.starting,
        }
    }

    /// Whether bunkers can be started from the image here: it comes with the worker, or is ready.
    fn has(&self, image: &Image) -> bool {
        let is_it = |digest: &String| Some(digest) == image.digest.as_ref();
        let is_ready = |report: &ImageReport| {
            let is_that_root = report.digest.as_ref().is_some_and(is_it);
            report.image_id == image.id && report.status == CacheStatus::Ready && is_that_root
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
        gpu_count: spec.gpu_count.into(),
    }
}

fn sum(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu_millicores: a.cpu_millicores.saturating_add(b.cpu_millicores),
        memory_mb: a.memory_mb.saturating_add(b.memory_mb),
        disk_mb: a.disk_mb.saturating_add(b.disk_mb),
        gpu_count: a.gpu_count.saturating_add(b.gpu_count),
    }
}

fn difference(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu_millicores: a.cpu_millicores.saturating_sub(b.cpu_millicores),
        memory_mb: a.memory_mb.saturating_sub(b.memory_mb),
        disk_mb: a.disk_mb.saturating_sub(b.disk_mb),
        gpu_count: a.gpu_count.saturating_sub(b.gpu_count),
    }
}

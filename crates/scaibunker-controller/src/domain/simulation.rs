//! A fleet in virtual time: the rules of placement, reservation, life, heartbeats and reconciliation
//! together, under thousands of random histories of faults. Everything that carries them out is
//! reduced to messages that arrive late or not at all.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, test_runner::Config};
use scaibunker_api::{
    bunker::BunkerStatus,
    ids::{BunkerId, ControllerId, TenantId, UserId, WorkerId},
    worker::{BunkerReport, Capacity, WorkerBunkerState},
};

use super::{
    bunker::{Bunker, Event, Spec, tests::spec},
    placement::{Candidate, choose},
    quota::{Amounts, AppliedProfile, Bucket, Charge},
    quota_drift::{Difference, counters_of, differences},
    reconcile::{Action, decide},
};

const CONTROLLERS: usize = 2;
const WORKERS: usize = 3;
/// Seconds with faults, and seconds in which everything has to settle.
const STORM: i64 = 240;
const CALM: i64 = 260;
const HEARTBEAT: i64 = 10;
const STALE: i64 = 30;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

struct Worker {
    id: WorkerId,
    held: BTreeMap<BunkerId, WorkerBunkerState>,
    /// Stopped, cut off or being restarted until then; its VMs go on.
    away_until: i64,
    /// When each controller last heard of it.
    heard: [i64; CONTROLLERS],
}

struct Controller {
    id: ControllerId,
    away_until: i64,
    /// What it believes to be taken on workers, for as long as nobody corrects it.
    believed: [Capacity; WORKERS],
    seen: HashSet<Difference>,
}

/// A start or an end on its way to a worker.
struct Message {
    at: i64,
    from: ControllerId,
    bunker: BunkerId,
    is_start: bool,
}

struct World {
    random: Random,
    now: i64,
    rows: BTreeMap<BunkerId, Bunker>,
    charges: HashMap<BunkerId, Charge>,
    workers: Vec<Worker>,
    controllers: Vec<Controller>,
    messages: Vec<Message>,
    made: usize,
    refused: usize,
}

fn capacity() -> Capacity {
    Capacity { cpu_millicores: 4_000, memory_mb: 2_048, disk_mb: 4_096, gpu_count: 0 }
}

fn small() -> Spec {
    Spec { cpu_millicores: 1_000, memory_mb: 512, disk_mb: 512, ..spec() }
}

impl World {
    fn new(seed: u64) -> Self {
        let worker = || Worker {
            id: WorkerId::generate(),
            held: BTreeMap::new(),
            away_until: 0,
            heard: [0; CONTROLLERS],
        };
        let controller = || Controller {
            id: ControllerId::generate(),
            away_until: 0,
            believed: [Capacity::default(); WORKERS],
            seen: HashSet::new(),
        };
        Self {
            random: Random(seed),
            now: 0,
            rows: BTreeMap::new(),
            charges: HashMap::new(),
            workers: (0..WORKERS).map(|_| worker()).collect(),
            controllers: (0..CONTROLLERS).map(|_| controller()).collect(),
            messages: Vec::new(),
            made: 0,
            refused: 0,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(self.now)
    }

    fn is_up(&self, controller: usize) -> bool {
        self.controllers[controller].away_until <= self.now
    }

    fn is_linked(&self, worker: usize) -> bool {
        self.workers[worker].away_until <= self.now
    }

    /// The one that runs what is run once.
    fn leader(&self) -> Option<usize> {
        (0..CONTROLLERS).find(|controller| self.is_up(*controller))
    }

    fn is_alive(&self, id: ControllerId) -> bool {
        (0..CONTROLLERS).any(|number| self.controllers[number].id == id && self.is_up(number))
    }

    fn taken(&self, worker: WorkerId) -> Amounts {
        counters_of(self.charges.values()).get(&Bucket::Worker(worker)).copied().unwrap_or_default()
    }

    /// Writes an event down; the ledger follows, unless the writer dies in between.
    fn apply(&mut self, id: BunkerId, event: Event) -> bool {
        let Some(Ok(next)) = self.rows.get(&id).map(|row| row.apply(event)) else { return false };
        let is_cut_off = self.now < STORM && self.random.one_in(20);
        if next.status().is_terminal() && !is_cut_off {
            self.charges.remove(&id);
        }
        self.rows.insert(id, next);
        true
    }

    fn create(&mut self, controller: usize) {
        let (spec, asked) = (
            small(),
            Capacity { cpu_millicores: 1_000, memory_mb: 512, disk_mb: 512, gpu_count: 0 },
        );
        for _ in 0..4 {
            let candidates: Vec<_> = (0..WORKERS)
                .filter(|worker| self.is_linked(*worker))
                .map(|worker| Candidate {
                    worker_id: self.workers[worker].id,
                    capacity: capacity(),
                    allocated: self.controllers[controller].believed[worker],
                    starting: 0,
                })
                .collect();
            let Ok(place) = choose(candidates.iter(), |c| *c, |_| true, asked) else {
                self.refused += 1;
                return self.look_for_room(controller);
            };
            let worker_id = place.worker_id;
            let charge = Charge::new(&[], Some(worker_id), &spec);
            let cap = AppliedProfile::of_worker(worker_id, capacity());
            if cap.exceeded(self.taken(worker_id), charge.amounts).is_some() {
                self.look_for_room(controller);
                continue;
            }
            let id = BunkerId::generate();
            self.charges.insert(id, charge);
            // A controller that dies here leaves a charge without a row.
            if self.now < STORM && self.random.one_in(30) {
                return;
            }
            let owner = (TenantId::generate(), UserId::generate());
            let mut row = Bunker::placed(id, owner, worker_id, Vec::new(), spec, self.time());
            row.starter = Some(self.controllers[controller].id);
            self.rows.insert(id, row);
            self.send(controller, id, true);
            self.made += 1;
            return;
        }
        self.refused += 1;
    }

    fn look_for_room(&mut self, controller: usize) {
        for worker in 0..WORKERS {
            let taken = self.taken(self.workers[worker].id);
            let [_, _, cpu_millicores, memory_mb, disk_mb, _] = taken.numbers();
            self.controllers[controller].believed[worker] =
                Capacity { cpu_millicores, memory_mb, disk_mb, gpu_count: 0 };
        }
    }

    fn send(&mut self, controller: usize, bunker: BunkerId, is_start: bool) {
        let at = self.now + self.random.below(6) as i64;
        let from = self.controllers[controller].id;
        self.messages.push(Message { at, from, bunker, is_start });
    }

    fn worker_of(&self, id: BunkerId) -> Option<usize> {
        let worker_id = self.rows.get(&id)?.worker_id;
        self.workers.iter().position(|worker| worker.id == worker_id)
    }

    fn deliver(&mut self) {
        let due: Vec<_> = self.messages.extract_if(.., |message| message.at <= self.now).collect();
        for Message { from, bunker, is_start, .. } in due {
            let Some(worker) = self.worker_of(bunker) else { continue };
            let is_lost = !self.is_linked(worker) || (self.now < STORM && self.random.one_in(15));
            let sender_lives = self.is_alive(from);
            if !is_start {
                if !is_lost && sender_lives {
                    self.workers[worker].held.remove(&bunker);
                    self.apply(bunker, Event::Released { at: self.time() });
                }
                continue;
            }
            if !is_lost {
                self.workers[worker].held.insert(bunker, WorkerBunkerState::Running);
            }
            // Without an answer the starter takes it for failed; without a starter nobody does.
            if sender_lives {
                let at = self.time();
                let event = match is_lost {
                    true => Event::Failed { reason: "no answer".to_owned(), at },
                    false => Event::Started { at, ip_address: None },
                };
                if !self.apply(bunker, event) {
                    self.workers[worker].held.remove(&bunker);
                }
            }
        }
    }

    fn heartbeats(&mut self) {
        for worker in 0..WORKERS {
            if !self.is_linked(worker) || (self.now + worker as i64) % HEARTBEAT != 0 {
                continue;
            }
            for controller in (0..CONTROLLERS).filter(|c| self.is_up(*c)).collect::<Vec<_>>() {
                self.workers[worker].heard[controller] = self.now;
                let held: Vec<_> = self.workers[worker].held.keys().copied().collect();
                for id in held {
                    self.settle(controller, worker, id);
                }
            }
        }
    }

    fn reconcile(&mut self, controller: usize) {
        for worker in (0..WORKERS).filter(|worker| self.is_linked(*worker)).collect::<Vec<_>>() {
            let worker_id = self.workers[worker].id;
            let is_its = |row: &&Bunker| row.worker_id == worker_id && !row.status().is_terminal();
            let rows = self.rows.values().filter(is_its).map(|row| row.id);
            let held = self.workers[worker].held.keys().copied();
            let ids: HashSet<_> = rows.chain(held).collect();
            for id in ids {
                self.settle(controller, worker, id);
            }
        }
    }

    fn settle(&mut self, controller: usize, worker: usize, id: BunkerId) {
        let own = self.controllers[controller].id;
        let row = self.rows.get(&id).cloned();
        let starter = row.as_ref().filter(|row| row.is_starting()).and_then(|row| row.starter);
        let is_under_way =
            self.messages.iter().any(|m| m.bunker == id && m.from == own && m.is_start);
        if is_under_way || starter.is_some_and(|starter| starter != own && self.is_alive(starter)) {
            return;
        }
        let state = self.workers[worker].held.get(&id).cloned();
        let report = state.map(|state| BunkerReport {
            id,
            state,
            started_at: None,
            last_active_at: None,
            ip_address: None,
        });
        let worker_id = self.workers[worker].id;
        match decide(row.as_ref(), worker_id, report.as_ref(), self.time()) {
            Action::Nothing => {}
            Action::Forget => drop(self.workers[worker].held.remove(&id)),
            Action::Apply(event) => drop(self.apply(id, event)),
            Action::ApplyThenForget(event) | Action::ForgetThenApply(event) => {
                self.apply(id, event);
                self.workers[worker].held.remove(&id);
            }
        }
    }

    fn monitor(&mut self) {
        for worker in 0..WORKERS {
            let heard = self.workers[worker].heard.iter().max().copied().unwrap_or_default();
            if self.now - heard <= STALE {
                continue;
            }
            let worker_id = self.workers[worker].id;
            let at = self.time();
            let lost: Vec<_> = self
                .rows
                .values()
                .filter(|row| row.worker_id == worker_id && !row.status().is_terminal())
                .map(|row| (row.id, row.status()))
                .collect();
            for (id, status) in lost {
                let event = match status {
                    BunkerStatus::Terminating => Event::Released { at },
                    _ => Event::Failed { reason: "silent".to_owned(), at },
                };
                self.apply(id, event);
            }
        }
    }

    fn reconcile_quota(&mut self, controller: usize) {
        let live: Vec<_> =
            self.rows.values().filter(|row| !row.status().is_terminal()).cloned().collect();
        let counters = counters_of(self.charges.values());
        let found = differences(&self.charges, &counters, &live);
        for difference in found.intersection(&self.controllers[controller].seen.clone()) {
            match difference {
                Difference::LeftOver(id) => drop(self.charges.remove(id)),
                Difference::Mischarged { id, .. } => {
                    if let Some(charge) = self.rows.get(id).and_then(Bunker::charge) {
                        self.charges.insert(*id, charge);
                    }
                }
                Difference::Miscounted(_) => {}
            }
        }
        self.controllers[controller].seen = found;
    }

    fn misfortune(&mut self) {
        let pause = self.random.below(45) as i64;
        match self.random.below(40) {
            0 => {
                // Killed and started again, as another one.
                let controller = self.random.below(CONTROLLERS as u64) as usize;
                self.controllers[controller].away_until = self.now + pause.min(10);
                self.controllers[controller].id = ControllerId::generate();
                self.controllers[controller].seen.clear();
            }
            1 | 2 => {
                let worker = self.random.below(WORKERS as u64) as usize;
                self.workers[worker].away_until = self.now + pause;
            }
            3 => {
                // The host: nothing runs there any more.
                let worker = self.random.below(WORKERS as u64) as usize;
                self.workers[worker].away_until = self.now + pause;
                self.workers[worker].held.clear();
            }
            _ => {}
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        if self.now < STORM {
            self.misfortune();
            let controller = self.random.below(CONTROLLERS as u64) as usize;
            if self.is_up(controller) {
                match self.random.below(3) {
                    0 => self.create(controller),
                    1 => self.end_one(controller),
                    _ => {}
                }
            }
        }
        self.deliver();
        self.heartbeats();
        if let Some(leader) = self.leader() {
            if self.now % 5 == 0 {
                self.monitor();
            }
            if self.now % 30 == 0 {
                self.reconcile(leader);
            }
            if self.now % 60 == 0 {
                self.reconcile_quota(leader);
            }
        }
    }

    fn end_one(&mut self, controller: usize) {
        let live: Vec<_> = self.rows.values().filter(|row| !row.status().is_terminal()).collect();
        if live.is_empty() {
            return;
        }
        let id = live[self.random.below(live.len() as u64) as usize].id;
        if self.apply(id, Event::EndRequested { reason: None }) {
            self.send(controller, id, false);
        }
    }

    /// Whatever happens, no worker is promised more than it has.
    fn oversold(&self) -> Option<WorkerId> {
        let workers = self.workers.iter().map(|worker| worker.id);
        workers.into_iter().find(|id| {
            let [_, _, cpu, memory, disk, _] = self.taken(*id).numbers();
            let has = capacity();
            cpu > has.cpu_millicores || memory > has.memory_mb || disk > has.disk_mb
        })
    }
}

proptest! {
    #![proptest_config(Config { cases: 2_000, ..Config::default() })]

    #[test]
    fn whatever_befalls_a_fleet_it_settles(seed: u64) {
        let mut world = World::new(seed);
        while world.now < STORM {
            world.tick();
            prop_assert_eq!(world.oversold(), None, "at {} s", world.now);
        }
        for away in world.controllers.iter_mut().map(|c| &mut c.away_until) {
            *away = world.now;
        }
        for worker in &mut world.workers {
            worker.away_until = world.now;
        }
        while world.now < STORM + CALM {
            world.tick();
            prop_assert_eq!(world.oversold(), None, "at {} s", world.now);
        }
        let live: BTreeMap<_, _> =
            world.rows.iter().filter(|(_, row)| !row.status().is_terminal()).collect();
        for (id, row) in &live {
            prop_assert_eq!(row.status(), BunkerStatus::Running);
            let worker = world.worker_of(**id).unwrap();
            prop_assert!(world.workers[worker].held.contains_key(id), "{} runs nowhere", id);
        }
        let held: usize = world.workers.iter().map(|worker| worker.held.len()).sum();
        prop_assert_eq!(held, live.len(), "something runs that nobody owns");
        let expected: HashMap<_, _> =
            live.values().filter_map(|row| Some((row.id, row.charge()?))).collect();
        prop_assert_eq!(&world.charges, &expected);
        prop_assert!(world.made > 5, "{} made, {} refused", world.made, world.refused);
    }
}

//! A fleet under random work and random faults. What it did is told by the seed; what must be true
//! once it has settled is true whatever it did.
//!
//! `SCAIBUNKER_FAULT_SEED` makes it another run, `SCAIBUNKER_FAULT_SECONDS` a longer one.

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};

use crate::{
    api::{Api, within},
    cluster::{Cluster, small},
    daemon::Signal,
    network::in_own_namespaces,
};

const WORKERS: usize = 3;
const CALLERS: u64 = 3;
const SECONDS: u64 = 90;
/// What a caller that was refused waits for.
const PATIENCE: Duration = Duration::from_millis(200);
const SEED: u64 = 3333;
/// Before the end, in which no bunker is deleted, so that some are there to be looked at.
const LAST_SECONDS: u64 = 30;
/// What differs between ledger and database is repaired when it was seen twice, a minute apart.
const SETTLE_LIMIT: Duration = Duration::from_secs(240);

/// A small generator: the same seed makes the same choices.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What the fleet has promised.
#[derive(Default)]
struct Promises {
    /// The last text that each bunker has said to be on its disk; `None` while a write is under way
    /// or its answer was lost.
    written: BTreeMap<String, Option<String>>,
    /// Reads that showed what was last written.
    read_back: usize,
    answered: usize,
    cut_off: usize,
    /// How often each call was answered with what.
    outcomes: BTreeMap<String, usize>,
}

impl Promises {
    fn note(&mut self, method: &Method, path: &str, code: &str) {
        self.answered += 1;
        let call = path.split('/').next_back().unwrap_or_default();
        let call = if call.starts_with("bnk_") { "bunker" } else { call };
        *self.outcomes.entry(format!("{method} {call}: {code}")).or_default() += 1;
    }
}

struct Caller {
    random: Random,
    controllers: Vec<Api>,
    promises: Arc<Mutex<Promises>>,
    own: Vec<String>,
    /// Bunkers that are there then stay until the end.
    deletes_until: Instant,
}

impl Caller {
    async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Option<Value> {
        let api =
            self.controllers[self.random.below(self.controllers.len() as u64) as usize].clone();
        match api.try_call(method.clone(), path, body).await {
            Ok(answer) => {
                let is_done = answer.status.is_success();
                let code = if is_done { "done" } else { answer.code() };
                self.promises.lock().unwrap().note(&method, path, code);
                assert!(answer.json.is_object(), "{path}: {} {}", answer.status, answer.json);
                assert_ne!(code, "INTERNAL", "{path}: {}", answer.json);
                if is_done {
                    return Some(answer.json["data"].clone());
                }
            }
            // Its controller was killed: an answer of a kind, and not one that promises anything.
            Err(_) => self.promises.lock().unwrap().cut_off += 1,
        }
        // Who asked again at once would spin while something is away, and prove nothing.
        tokio::time::sleep(PATIENCE).await;
        None
    }

    async fn step(&mut self, number: u64) {
        let which = self.random.below(10);
        if self.own.is_empty() || (which < 2 && self.own.len() < 3) {
            let made = self.call(Method::POST, "/bunkers?wait=true", Some(&small())).await;
            if let Some(made) = made.filter(|made| made["status"] == "running") {
                self.own.push(made["id"].as_str().unwrap().to_owned());
            }
            return;
        }
        let at = self.random.below(self.own.len() as u64) as usize;
        let id = self.own[at].clone();
        match which {
            0..=6 => self.write(&id, number).await,
            7 => {
                self.call(Method::POST, &format!("/bunkers/{id}/pause"), None).await;
                self.call(Method::POST, &format!("/bunkers/{id}/resume"), None).await;
            }
            9 if Instant::now() < self.deletes_until => {
                self.own.remove(at);
                self.promises.lock().unwrap().written.remove(&id);
                self.call(Method::DELETE, &format!("/bunkers/{id}"), None).await;
            }
            _ => self.read(&id).await,
        }
    }

    async fn read(&mut self, id: &str) {
        let line = json!({ "command": "cat /root/kept", "user": "root" });
        let done = self.call(Method::POST, &format!("/bunkers/{id}/exec"), Some(&line)).await;
        let mut promises = self.promises.lock().unwrap();
        if let (Some(done), Some(Some(text))) = (done, promises.written.get(id)) {
            assert_eq!(done["stdout"], format!("{text}\n"), "{id} lost a write: {done}");
            promises.read_back += 1;
        }
    }

    async fn write(&mut self, id: &str, number: u64) {
        let text = format!("{number}-{}", self.random.below(1_000_000));
        self.promises.lock().unwrap().written.insert(id.to_owned(), None);
        let line = format!("echo {text} > /root/new && sync && mv /root/new /root/kept && sync");
        let body = json!({ "command": line, "user": "root", "timeout_s": 30 });
        let done = self.call(Method::POST, &format!("/bunkers/{id}/exec"), Some(&body)).await;
        if done.is_some_and(|done| done["exit_code"] == 0) {
            self.promises.lock().unwrap().written.insert(id.to_owned(), Some(text));
        }
    }
}

/// One thing goes wrong, and is mended.
async fn fault(cluster: &mut Cluster, random: &mut Random) -> String {
    let pause = Duration::from_millis(500 + random.below(2_500));
    let which = random.below(10);
    let controller = random.below(cluster.controllers.len() as u64) as usize;
    let worker = random.below(cluster.workers.len() as u64) as usize;
    let what = match which {
        0 | 1 => {
            cluster.controllers[controller].kill();
            tokio::time::sleep(pause).await;
            cluster.controllers[controller].start();
            cluster.controllers[controller].wait_until_ready();
            format!("controller {controller} killed")
        }
        2 => {
            cluster.controllers[controller].signal(Signal::STOP);
            tokio::time::sleep(pause).await;
            cluster.controllers[controller].signal(Signal::CONT);
            format!("controller {controller} stopped")
        }
        3 => {
            cluster.workers[worker].kill();
            tokio::time::sleep(pause).await;
            cluster.workers[worker].start();
            cluster.workers[worker].wait_until_ready();
            format!("worker {worker} killed")
        }
        4 => {
            cluster.workers[worker].signal(Signal::STOP);
            tokio::time::sleep(pause).await;
            cluster.workers[worker].signal(Signal::CONT);
            format!("worker {worker} stopped")
        }
        5 => {
            cluster.redis.kill();
            tokio::time::sleep(pause).await;
            cluster.redis.start_again();
            "Redis killed, with all it held".to_owned()
        }
        6 | 7 => {
            cluster.hosts[worker].cut();
            // Twice as long at times as both ends take to find it out.
            let pause = pause * 8;
            tokio::time::sleep(pause).await;
            cluster.hosts[worker].mend();
            format!("worker {worker} cut off, {pause:?} in all,")
        }
        8 => {
            cluster.disks[worker].fill();
            tokio::time::sleep(pause).await;
            cluster.disks[worker].empty();
            format!("worker {worker}'s disk full")
        }
        _ => {
            cluster.postgres.kill();
            tokio::time::sleep(pause).await;
            cluster.postgres.start_again();
            "PostgreSQL killed".to_owned()
        }
    };
    format!("{what} for {pause:?}")
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn a_fleet_keeps_its_promises_whatever_befalls_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make hosts");
        return;
    }
    // Workers download what they lack, which they can't where they are put then.
    drop(Cluster::start(1, 1));
    in_own_namespaces(fault_run);
}

async fn fault_run() {
    let seed = setting("SCAIBUNKER_FAULT_SEED").unwrap_or(SEED);
    let seconds = setting("SCAIBUNKER_FAULT_SECONDS").unwrap_or(SECONDS);
    println!("SCAIBUNKER_FAULT_SEED={seed} SCAIBUNKER_FAULT_SECONDS={seconds}");
    let mut cluster = Cluster::start_apart(2, WORKERS);
    let controllers: Vec<_> = (0..2).map(|number| cluster.api(number)).collect();
    let promises = Arc::new(Mutex::new(Promises::default()));
    let end = Instant::now() + Duration::from_secs(seconds);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let mut caller = Caller {
                random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number + 1)),
                controllers: controllers.clone(),
                promises: Arc::clone(&promises),
                own: Vec::new(),
                deletes_until: end - Duration::from_secs(LAST_SECONDS),
            };
            tokio::spawn(async move {
                let mut number = 0;
                while Instant::now() < end {
                    number += 1;
                    caller.step(number).await;
                }
            })
        })
        .collect();
    let mut random = Random(seed);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1_000 + random.below(2_000))).await;
        println!("{}", fault(&mut cluster, &mut random).await);
    }
    for caller in callers {
        caller.await.unwrap();
    }
    println!("{:#?}", promises.lock().unwrap().outcomes);
    let (kept, answered, read_back) = {
        let promises = promises.lock().unwrap();
        let kept: Vec<_> = promises.written.clone().into_iter().collect();
        let Promises { answered, read_back, cut_off, .. } = *promises;
        println!("{answered} answers, {cut_off} connections cut off, {read_back} writes read back");
        (kept, answered, read_back)
    };
    assert!(
        answered > seconds as usize && read_back > seconds as usize / 10,
        "too little came of it to prove anything"
    );
    settles(&cluster, &controllers, kept).await;

    // A worker that is stopped leaves nothing behind.
    for worker in &mut cluster.workers {
        worker.stop();
    }
    let processes = cluster.vms.running();
    let dirs: Vec<_> = (0..WORKERS).flat_map(|worker| cluster.vm_dirs(worker)).collect();
    let cgroups = cluster.vms.cgroups();
    assert!(
        processes.is_empty() && dirs.is_empty() && cgroups.is_empty(),
        "{processes:?} {dirs:?} {cgroups:?}"
    );
}

/// Everything that has to be true at the end.
async fn settles(cluster: &Cluster, controllers: &[Api], kept: Vec<(String, Option<String>)>) {
    let api = &controllers[0];
    within(SETTLE_LIMIT, "all workers are online for both controllers", async || {
        for controller in controllers {
            let workers = controller.get("/workers").await.data().as_array().unwrap().clone();
            if workers.len() != WORKERS || workers.iter().any(|worker| worker["status"] != "online")
            {
                return false;
            }
        }
        true
    })
    .await;
    within(SETTLE_LIMIT, "no bunker is on its way", async || {
        let mut on_their_way = 0;
        for status in ["pending", "provisioning", "terminating"] {
            let listed = api.get(&format!("/bunkers?limit=200&status={status}")).await;
            on_their_way += listed.data().as_array().unwrap().len();
        }
        on_their_way == 0
    })
    .await;

    // Every acknowledged write of a bunker that lives is there.
    let mut living = 0;
    for (id, text) in &kept {
        let status = api.get(&format!("/bunkers/{id}")).await.data()["status"].clone();
        if status == "paused" {
            linked(api, &format!("/bunkers/{id}/resume"), &Value::Null).await;
        } else if status != "running" {
            continue;
        }
        let Some(text) = text else { continue };
        let line = json!({ "command": "cat /root/kept", "user": "root" });
        let read = linked(api, &format!("/bunkers/{id}/exec"), &line).await;
        assert_eq!(read["stdout"], format!("{text}\n"), "{id} lost a write");
        living += 1;
    }
    println!("{living} of {} bunkers lived through it with all that was written", kept.len());

    // The quota equals the database equals what runs.
    let running = async || {
        let mut ids = Vec::new();
        for status in ["running", "paused"] {
            let listed = api.get(&format!("/bunkers?limit=200&status={status}")).await;
            let rows = listed.data().as_array().unwrap().clone();
            ids.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        }
        ids
    };
    within(SETTLE_LIMIT, "quota, database and workers agree", async || {
        let rows = running().await.len() as u64;
        // A controller that has lost Redis says so until it has found it again.
        let usage = api.get("/quota-profiles/usage").await.json["data"].clone();
        let counted = usage[0]["resources"]["concurrent_bunkers"]["current"].as_u64();
        let workers = api.get("/workers").await.data().as_array().unwrap().clone();
        let on_workers: u64 =
            workers.iter().map(|worker| worker["bunkers"].as_u64().unwrap()).sum();
        counted == Some(rows) && rows == on_workers && claimed(cluster) as u64 == rows
    })
    .await;

    // It has not become a fleet that refuses everybody.
    within(SETTLE_LIMIT, "a new bunker runs", async || {
        let made = api.post("/bunkers?wait=true", &small()).await;
        made.status.is_success() && made.data()["status"] == "running"
    })
    .await;

    for id in running().await {
        api.delete(&format!("/bunkers/{id}")).await.data();
    }
    within(SETTLE_LIMIT, "nothing of any bunker is left", async || {
        let workers = api.get("/workers").await.data().as_array().unwrap().clone();
        let is_free = |worker: &Value| {
            let allocated = &worker["allocated"];
            worker["bunkers"] == 0 && allocated["memory_mb"] == 0 && allocated["disk_mb"] == 0
        };
        workers.iter().all(is_free) && claimed(cluster) == 0
    })
    .await;
}

/// The data of an answer, as soon as the bunker's worker has linked up again.
async fn linked(api: &Api, path: &str, body: &Value) -> Value {
    let mut data = Value::Null;
    within(SETTLE_LIMIT, path, async || {
        let answer = api.post(path, body).await;
        if answer.code() == "WORKER_UNAVAILABLE" {
            return false;
        }
        data = answer.data().clone();
        true
    })
    .await;
    data
}

/// VMs that belong to a bunker, on all workers' disks.
fn claimed(cluster: &Cluster) -> usize {
    let vms = (0..WORKERS).flat_map(|worker| cluster.vm_dirs(worker));
    let records = vms.filter_map(|dir| {
        let record = std::fs::read(dir.join("record.json")).ok()?;
        serde_json::from_slice::<Value>(&record).ok()
    });
    records.filter(|record| record["claim"]["bunker_id"].is_string()).count()
}

//! The loss test: a bunker that writes files and a database is paused, kept, restored, forked, written out
//! and moved, again and again, while what does that is killed. Whatever was said to be written is there after
//! every round.
//!
//! `SCAIBUNKER_LOSS_ROUNDS` makes it a longer run, `SCAIBUNKER_LOSS_SEED` another one.

use std::{
    env, fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};

use crate::{
    api::{Api, within},
    cluster::Cluster,
    faults::Random,
};

const ROUNDS: u64 = 6;
const SEED: u64 = 20_261_129;
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// SQLite with the libraries of this host; the image has neither.
const SQLITE: &str = "/sqlite/ld.so --library-path /sqlite /sqlite/sqlite3 \
    -cmd '.timeout 60000' /root/kept.db";

/// Writes rows for as long as it lives, and says which are written.
const LOAD: &str = "cd /root; i=$(cat told 2>/dev/null || echo 0); while :; do i=$((i+1)); \
    $SQLITE \"PRAGMA synchronous=FULL; INSERT INTO load VALUES ($i, hex(randomblob(400)));\" && \
    echo $i > told.new && sync && mv told.new told; done";

/// Prints how many rows there are of which it was said that they are written, and what is wrong.
const CHECK: &str = "cd /root; $SQLITE 'PRAGMA integrity_check'; \
    told=$(cat told 2>/dev/null || echo 0); \
    $SQLITE \"SELECT 'load', count(*) >= $told FROM load WHERE i <= $told\"; \
    for sum in sum.*; do md5sum -c $sum >/dev/null 2>&1 && echo \"file ${sum#sum.}\"; done; \
    $SQLITE \"SELECT 'row', n FROM steps\"";

fn setting(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// What befalls the bunker in a round.
#[derive(Debug, Clone, Copy)]
enum Change {
    Pause,
    Disk,
    Memory,
    Fork,
    Evict,
    Move,
}

const CHANGES: [Change; 6] =
    [Change::Pause, Change::Disk, Change::Memory, Change::Fork, Change::Evict, Change::Move];

/// The bunker, by way of whichever controller.
struct Kept {
    controllers: Vec<Api>,
    random: Random,
    id: String,
    steps: u64,
    /// Steps that were answered.
    said: Vec<u64>,
}

impl Kept {
    fn api(&mut self) -> Api {
        self.controllers[self.random.below(self.controllers.len() as u64) as usize].clone()
    }

    /// An answer that promises something, if there was one.
    async fn call(&mut self, method: Method, path: &str, body: &Value) -> Option<Value> {
        let sent = (method != Method::GET).then_some(body);
        let answer = self.api().try_call(method, path, sent).await.ok()?;
        if !answer.status.is_success() {
            println!("{path}: {}", answer.json["error"]);
        }
        answer.status.is_success().then(|| answer.json["data"].clone())
    }

    async fn sh(&mut self, id: &str, line: &str) -> Option<Value> {
        let command = line.replace("$SQLITE", SQLITE);
        let body = json!({ "command": command, "user": "root", "timeout_s": 100 });
        self.call(Method::POST, &format!("/bunkers/{id}/exec"), &body).await
    }

    async fn step(&mut self) {
        self.steps += 1;
        let (n, id) = (self.steps, self.id.clone());
        let line = format!(
            "cd /root && head -c 150000 /dev/urandom > file.{n} && md5sum file.{n} > sum.{n}.new && \
             sync && mv sum.{n}.new sum.{n} && \
             $SQLITE 'PRAGMA synchronous=FULL; INSERT INTO steps VALUES ({n});' && sync"
        );
        if self.sh(&id, &line).await.is_some_and(|done| done["exit_code"] == 0) {
            self.said.push(n);
        }
    }

    async fn load(&mut self) {
        let command = LOAD.replace("$SQLITE", SQLITE);
        let body = json!({ "command": command, "user": "root", "detach": true, "timeout_s": 3600 });
        let path = format!("/bunkers/{}/exec", self.id);
        self.call(Method::POST, &path, &body).await;
    }

    /// Begins the change; gives the bunker that it made, if it made one.
    async fn change(&mut self, change: Change) -> Option<String> {
        let path = format!("/bunkers/{}", self.id);
        match change {
            Change::Pause => {
                self.call(Method::POST, &format!("{path}/pause"), &Value::Null).await;
                self.call(Method::POST, &format!("{path}/resume"), &Value::Null).await;
                None
            }
            Change::Disk | Change::Memory => {
                let kind = if matches!(change, Change::Disk) { "disk" } else { "memory" };
                let ask = json!({ "kind": kind });
                let taken =
                    self.call(Method::POST, &format!("{path}/snapshot?wait=true"), &ask).await?;
                let body = json!({ "snapshot_id": taken["id"], "lifecycle_mode": "persistent" });
                let made = self.call(Method::POST, "/bunkers?wait=true", &body).await?;
                (made["status"] == "running").then(|| made["id"].as_str().unwrap().to_owned())
            }
            Change::Fork => {
                let ask = json!({ "count": 1 });
                let made = self.call(Method::POST, &format!("{path}/fork?wait=true"), &ask).await?;
                (made[0]["status"] == "running").then(|| made[0]["id"].as_str().unwrap().to_owned())
            }
            Change::Evict | Change::Move => {
                self.call(Method::POST, &format!("{path}/pause"), &Value::Null).await;
                let deadline = Instant::now() + Duration::from_secs(15);
                let mut record = Value::Null;
                while record["evicted"] != true && Instant::now() < deadline {
                    record = self.call(Method::GET, &path, &Value::Null).await.unwrap_or_default();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                self.call(Method::POST, &format!("{path}/resume"), &Value::Null).await;
                None
            }
        }
    }

    /// Waits until a bunker runs again.
    async fn runs(&mut self, id: &str) {
        let mut last = Value::Null;
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let path = format!("/bunkers/{id}");
            if let Some(record) = self.call(Method::GET, &path, &Value::Null).await {
                last = record;
            }
            match last["status"].as_str() {
                Some("running") if self.sh(id, "true").await.is_some() => return,
                Some("paused") => {
                    self.call(Method::POST, &format!("{path}/resume"), &Value::Null).await;
                }
                Some("failed" | "terminated") => panic!("the bunker is lost: {last}"),
                _ => {}
            }
            assert!(Instant::now() < deadline, "it does not run again: {last}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Everything that was said to be written is there.
    async fn check(&mut self, id: &str) {
        self.runs(id).await;
        // A worker that was killed ended the command; it is asked again.
        let mut found = None;
        within(SETTLE_LIMIT, "it can be checked", async || {
            found = self.sh(id, CHECK).await.filter(|found| found["exit_code"] == 0);
            found.is_some()
        })
        .await;
        let found = found.unwrap_or_default();
        let lines: Vec<_> = found["stdout"].as_str().unwrap().lines().collect();
        assert_eq!(lines[..2], ["ok", "load|1"], "{found}");
        for n in &self.said {
            for kind in [format!("file {n}"), format!("row|{n}")] {
                assert!(lines.contains(&kind.as_str()), "{kind} is lost: {found}");
            }
        }
    }
}

/// A directory with SQLite that runs anywhere.
fn sqlite(dir: &Path) {
    let listed = Command::new("ldd").arg("/usr/bin/sqlite3").output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain(["/usr/bin/sqlite3"]) {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let name = if name.starts_with("ld-linux") { "ld.so" } else { name };
        fs::copy(path, dir.join(name)).unwrap();
    }
}

async fn prepared(cluster: &Cluster, random: Random) -> Kept {
    let controllers: Vec<_> = (0..2).map(|number| cluster.api(number)).collect();
    let body = json!({
        "image": "busybox", "memory_mb": 256, "disk_mb": 256, "cpu_millicores": 1000,
        "lifecycle_mode": "persistent", "pause_evict_after_s": 1,
    });
    let made = controllers[0].post("/bunkers?wait=true", &body).await.data().clone();
    let id = made["id"].as_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("sqlite");
    fs::create_dir(&own).unwrap();
    sqlite(&own);
    let copied = Command::new(env!("CARGO_BIN_EXE_scaibunker"))
        .args(["--url", &cluster.url(0), "cp", own.to_str().unwrap(), &format!("{id}:/sqlite")])
        .env("SCAIBUNKER_API_KEY", cluster.admin_key())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let mut kept = Kept { controllers, random, id, steps: 0, said: Vec::new() };
    let id = kept.id.clone();
    let tables = "CREATE TABLE steps (n INTEGER); CREATE TABLE load (i INTEGER, x TEXT);";
    // Each controller has its own link with the worker.
    within(SETTLE_LIMIT, "both controllers reach it", async || {
        kept.sh(&id, "true").await.is_some() && kept.sh(&id, "true").await.is_some()
    })
    .await;
    let made = kept.sh(&id, &format!("$SQLITE 'PRAGMA journal_mode=WAL; {tables}'")).await;
    assert_eq!(made.as_ref().map(|made| &made["exit_code"]), Some(&json!(0)), "{made:?}");
    kept
}

/// Kills one of the processes and starts it again.
async fn kill(cluster: &mut Cluster, random: &mut Random) -> String {
    let delay = Duration::from_millis(random.below(2_500));
    let which = random.below(5) as usize;
    tokio::time::sleep(delay).await;
    let killed = match which {
        0 | 1 => &mut cluster.workers[which],
        // They are the storage proxies as well.
        2 | 3 => &mut cluster.controllers[which - 2],
        _ => return "nothing killed".to_owned(),
    };
    let name = killed.name.clone();
    tokio::task::block_in_place(|| {
        killed.kill();
        killed.start();
        killed.wait_until_ready();
    });
    format!("{name} killed after {delay:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_written_is_lost() {
    let rounds = setting("SCAIBUNKER_LOSS_ROUNDS", ROUNDS);
    let seed = setting("SCAIBUNKER_LOSS_SEED", SEED);
    println!("SCAIBUNKER_LOSS_SEED={seed} SCAIBUNKER_LOSS_ROUNDS={rounds}");
    let mut cluster = Cluster::start(2, 2);
    let mut kept = prepared(&cluster, Random(seed)).await;
    let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    for round in 0..rounds {
        // Each of them in turn, in CI too.
        let change = CHANGES[(round % CHANGES.len() as u64) as usize];
        kept.load().await;
        for _ in 0..2 {
            kept.step().await;
        }
        let drained = matches!(change, Change::Move).then(|| cluster.api(0));
        let worker = cluster.api(0).get(&format!("/bunkers/{}", kept.id)).await;
        let worker = worker.data()["worker_id"].as_str().unwrap_or_default().to_owned();
        if let Some(api) = &drained {
            api.post(&format!("/workers/{worker}/drain"), &Value::Null).await.data();
        }
        if matches!(change, Change::Evict | Change::Move) {
            // Commands that run keep a bunker where it is.
            let id = kept.id.clone();
            kept.sh(&id, "pkill -f hex; true").await;
        }
        let (made, killed) = tokio::join!(kept.change(change), kill(&mut cluster, &mut random));
        println!("round {round}: {change:?}, {killed}, {} steps", kept.said.len());
        let old = kept.id.clone();
        kept.check(&old).await;
        if let Some(new) = made {
            kept.check(&new).await;
            kept.id = new;
            within(SETTLE_LIMIT, "the other one ends", async || {
                let ended =
                    kept.call(Method::DELETE, &format!("/bunkers/{old}"), &Value::Null).await;
                ended.is_some()
            })
            .await;
        }
        if let Some(api) = &drained {
            within(SETTLE_LIMIT, "its worker takes bunkers again", async || {
                api.post(&format!("/workers/{worker}/resume"), &Value::Null)
                    .await
                    .status
                    .is_success()
            })
            .await;
        }
    }
    assert!(kept.said.len() as u64 >= rounds, "too little came of it: {:?}", kept.said);
    let id = kept.id.clone();
    kept.check(&id).await;
    kept.call(Method::DELETE, &format!("/bunkers/{id}"), &Value::Null).await;
}

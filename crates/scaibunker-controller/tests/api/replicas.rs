//! Several controllers on one PostgreSQL and one Redis: any of them serves any request, and nothing
//! is done twice.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use http::Method;
use scaibunker_controller::ControllerConfig;
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    server::{Server, config},
    sim_worker::SimWorker,
    state,
};

struct Fleet {
    controllers: Vec<Server>,
    worker: SimWorker,
    _dirs: Vec<tempfile::TempDir>,
}

impl Fleet {
    /// Controllers that a worker is linked with.
    async fn new(count: usize) -> Self {
        let dirs: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut controllers: Vec<Server> = Vec::new();
        for (number, dir) in dirs.iter().enumerate() {
            if number > 0 {
                state::share(dirs[0].path(), dir.path());
                // The key is at the controller that came first.
                let key = dirs[0].path().join("admin.key");
                std::fs::copy(key, dir.path().join("admin.key")).unwrap();
            }
            let config = state::on_servers(ControllerConfig {
                advertise_url: Some(format!("http://controller-{number}.test")),
                capability_secret: Some("a secret that all of them have".to_owned()),
                ..config(dir.path())
            });
            controllers.push(Server::start_with(config).await);
        }
        let worker = SimWorker::new();
        for controller in &controllers {
            controller.link(&worker).await;
        }
        Self { controllers, worker, _dirs: dirs }
    }

    fn api(&self, number: usize) -> &Api {
        &self.controllers[number].api
    }

    async fn status(&self, number: usize, id: &str) -> Value {
        self.api(number).get(&format!("/bunkers/{id}")).await.data()["status"].clone()
    }
}

fn small() -> Value {
    json!({ "image": "busybox", "cpu_millicores": 1000, "memory_mb": 256, "disk_mb": 64 })
}

#[tokio::test]
async fn two_controllers_never_give_away_the_same_room() {
    let fleet = Fleet::new(2).await;
    // The worker has room for four.
    let create = |number: usize| {
        let api = fleet.api(number % 2).clone();
        async move { api.post("/bunkers?wait=true", &small()).await }
    };
    let answers = join_all((0..16).map(create)).await;
    let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    assert_eq!(made.len(), 4);
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 201).collect();
    for answer in refused {
        assert_eq!(answer.error(), (503, "WORKER_UNAVAILABLE"), "{}", answer.json);
    }
    assert_eq!(fleet.worker.held().len(), 4);

    // What one gives back the other can give away, at once.
    let id = made[0].data()["id"].as_str().unwrap();
    fleet.api(0).delete(&format!("/bunkers/{id}")).await.data();
    assert!(eventually(async || fleet.status(1, id).await == "terminated").await);
    fleet.api(1).post("/bunkers?wait=true", &small()).await.data();
    assert_eq!(fleet.api(0).post("/bunkers", &small()).await.error(), (503, "WORKER_UNAVAILABLE"));
}

#[tokio::test]
async fn any_controller_serves_any_request() {
    let fleet = Fleet::new(2).await;
    let made = fleet.api(0).post("/bunkers?wait=true", &small()).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    assert_eq!(fleet.status(1, &id).await, "running");
    let exec = json!({ "command": ["echo", "hello"] });
    let said = fleet.api(1).post(&format!("/bunkers/{id}/exec"), &exec).await;
    assert_eq!(said.data()["exit_code"], 0, "{}", said.json);
    let path = format!("/bunkers/{id}/pause");
    fleet.api(1).post(&path, &Value::Null).await.data();
    assert_eq!(fleet.status(0, &id).await, "paused");
    fleet.api(0).post(&format!("/bunkers/{id}/resume"), &Value::Null).await.data();
    fleet.api(1).delete(&format!("/bunkers/{id}")).await.data();
    assert!(eventually(async || fleet.status(0, &id).await == "terminated").await);

    // The same request at both is one bunker.
    let key = [("idempotency-key", "once")];
    let create = |number: usize| {
        let api = fleet.api(number % 2).clone();
        async move { api.call(Method::POST, "/bunkers", &key, small().to_string()).await }
    };
    let answers = join_all((0..6).map(create)).await;
    let ids: std::collections::BTreeSet<_> =
        answers.iter().map(|answer| answer.data()["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_start_belongs_to_the_controller_that_makes_it() {
    let fleet = Fleet::new(2).await;
    fleet.worker.start_delay_ms.store(2_000, Ordering::SeqCst);
    let made = fleet.api(0).post("/bunkers", &small()).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    // The other one compares the database with the worker meanwhile, which has no such bunker yet.
    for _ in 0..3 {
        fleet.controllers[1].link(&fleet.worker).await;
        fleet.worker.heartbeat(&fleet.controllers[1].base).await;
    }
    assert!(eventually(async || fleet.status(1, &id).await == "running").await);
    assert_eq!(fleet.worker.starts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_controller_that_dies_leaves_its_work_to_the_others() {
    let mut fleet = Fleet::new(2).await;
    let made = fleet.api(0).post("/bunkers?wait=true", &small()).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    fleet.worker.start_delay_ms.store(60_000, Ordering::SeqCst);
    let half = fleet.api(0).post("/bunkers", &small()).await;
    let half = half.data()["id"].as_str().unwrap().to_owned();
    let begun = eventually(async || fleet.worker.starts.load(Ordering::SeqCst) == 2);
    assert!(begun.await);
    fleet.controllers.remove(0).kill().await;
    // Everything of it that has a limit ends in time.
    let patch = json!({ "max_lifetime_s": 1 });
    fleet.api(0).patch(&format!("/bunkers/{id}"), &patch).await.data();
    let ended = async || fleet.status(0, &id).await == "terminated";
    assert!(within_a_minute(ended).await, "nobody took the reaper over");
    // The worker never came to an end with the other start, and forgets it with the one who asked.
    fleet.worker.held().clear();
    fleet.controllers[0].link(&fleet.worker).await;
    let failed = async || fleet.status(0, &half).await == "failed";
    assert!(within_a_minute(failed).await, "nobody took the start over");
    // All of its room is free.
    fleet.worker.start_delay_ms.store(0, Ordering::SeqCst);
    for _ in 0..4 {
        fleet.api(0).post("/bunkers?wait=true", &small()).await.data();
    }
}

async fn within_a_minute(mut condition: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..3 {
        if eventually(&mut condition).await {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn workers_are_told_of_every_controller_that_lives() {
    let fleet = Fleet::new(3).await;
    let token = fleet.api(0).with_key(crate::server::WORKER_TOKEN);
    let path = format!("/workers/{}/heartbeat", fleet.worker.id());
    let beat = json!({ "images": [], "bunkers": [] });
    let urls = async || {
        let heard = token.post(&path, &beat).await;
        let controllers = heard.data()["controllers"].as_array().unwrap().clone();
        let urls = controllers.iter().map(|c| c["url"].as_str().unwrap().to_owned());
        urls.collect::<std::collections::BTreeSet<_>>()
    };
    assert!(eventually(async || urls().await.len() == 3).await, "{:?}", urls().await);
    let mut fleet = fleet;
    fleet.controllers.remove(2).stop().await;
    assert!(eventually(async || urls().await.len() == 2).await, "{:?}", urls().await);
}

#[tokio::test]
async fn changes_of_one_controller_are_told_by_the_others() {
    let fleet = Fleet::new(2).await;
    let made = fleet.api(0).post("/bunkers?wait=true", &small()).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    let path = format!("/bunkers/{id}/events");
    let events = fleet.api(1).send(Method::GET, &path, &[], "").await;
    fleet.api(0).delete(&format!("/bunkers/{id}")).await.data();
    // The stream ends with the bunker.
    let told = http_body_util::BodyExt::collect(events.into_body()).await.unwrap().to_bytes();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("running") && told.contains("terminated"), "{told}");
}

#[tokio::test]
async fn what_controllers_share_must_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let alone = ControllerConfig {
        advertise_url: Some("http://controller.test".to_owned()),
        database: None,
        ..config(dir.path())
    };
    let error = scaibunker_controller::Controller::open(alone).await.err().unwrap().to_string();
    assert!(error.contains("a database server is not given"), "{error}");
}

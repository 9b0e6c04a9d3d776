//! Pause and resume, what quota they leave, and who is told.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use scaibunker_api::worker::WorkerBunkerState;
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    server::Server,
};

async fn step(api: &Api, id: &str, step: &str) -> Value {
    api.post(&format!("/bunkers/{id}/{step}"), &Value::Null).await.data().clone()
}

async fn cpu_in_use(api: &Api) -> u64 {
    let usage = api.get("/quota-profiles/usage").await;
    usage.data()[0]["resources"]["cpu_millicores"]["current"].as_u64().unwrap()
}

#[tokio::test]
async fn a_paused_bunker_gives_its_cpu_back_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    assert_eq!(cpu_in_use(api).await, 1000);
    for _ in 0..2 {
        assert_eq!(step(api, &id, "pause").await["status"], "paused");
        assert_eq!(cpu_in_use(api).await, 0);
    }
    assert_eq!(worker.held()[&id.parse().unwrap()], WorkerBunkerState::Paused);
    let usage = api.get("/quota-profiles/usage").await.data()[0]["resources"].clone();
    assert_eq!(usage["concurrent_bunkers"]["current"], 1);
    assert_eq!(usage["memory_mb"]["current"], 256);
    let refused = api.post(&format!("/bunkers/{id}/exec"), &json!({ "command": "true" })).await;
    assert_eq!(refused.error(), (409, "BUNKER_NOT_RUNNING"));
    assert_eq!(api.get(&format!("/bunkers/{id}/metrics")).await.data()["disk_bytes"], 3);
    for _ in 0..2 {
        assert_eq!(step(api, &id, "resume").await["status"], "running");
        assert_eq!(cpu_in_use(api).await, 1000);
    }
    step(api, &id, "pause").await;
    api.delete(&format!("/bunkers/{id}")).await.data();
    assert_eq!(cpu_in_use(api).await, 0);
    let ended = api.post(&format!("/bunkers/{id}/resume"), &Value::Null).await;
    assert_eq!(ended.error(), (409, "BUNKER_NOT_RUNNING"));
    server.stop().await;
}

#[tokio::test]
async fn what_the_worker_did_before_a_crash_is_learned() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    for (state, status, cpu) in
        [(WorkerBunkerState::Paused, "paused", 0), (WorkerBunkerState::Running, "running", 1000)]
    {
        worker.held().insert(id.parse().unwrap(), state);
        worker.heartbeat(&server.base).await;
        api.bunker_becomes(&id, status).await;
        assert!(eventually(async || cpu_in_use(api).await == cpu).await);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_late_heartbeat_pauses_and_resumes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let path = format!("/bunkers/{id}");
    for (first, then, cpu) in [("pause", "resume", 1000), ("resume", "pause", 0)] {
        // Its end shows when the heartbeat has been settled, in the order of the reports.
        let last = api.running_bunker().await;
        worker.lose(&last, "it crashed");
        step(api, &id, first).await;
        let mut late = worker.write_heartbeat();
        late.bunkers.sort_by_key(|report| report.id.to_string() == last);
        let known = step(api, &id, then).await;
        worker.send(&server.base, late).await;
        api.bunker_becomes(&last, "failed").await;
        assert_eq!(api.get(&path).await.data(), &known);
        assert!(eventually(async || cpu_in_use(api).await == cpu).await);
    }
    server.stop().await;
}

#[tokio::test]
async fn idle_means_that_the_worker_saw_no_work() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let body = json!({ "image": "busybox", "idle_timeout_s": 1 });
    let made = api.post("/bunkers?wait=true", &body).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    // It works, though nobody asks anything of it: the record follows, and it lives.
    let in_an_hour = Timestamp::now().checked_add(Duration::from_secs(3_600)).unwrap();
    *worker.last_active_at.lock().unwrap() = Some(in_an_hour);
    let path = format!("/bunkers/{id}");
    let followed = eventually(async || {
        let record = api.get(&path).await.data().clone();
        let seen: Option<Timestamp> =
            record["last_active_at"].as_str().map(|time| time.parse().unwrap());
        seen.is_some_and(|seen| seen.as_millisecond() == in_an_hour.as_millisecond())
    });
    assert!(followed.await, "{}", api.get(&path).await.json);
    assert_eq!(api.get(&path).await.data()["status"], "running");

    let other = api.post("/bunkers?wait=true", &body).await;
    let other = other.data()["id"].as_str().unwrap().to_owned();
    *worker.last_active_at.lock().unwrap() = Some(Timestamp::now());
    let ended = api.bunker_becomes(&other, "terminated").await;
    assert!(ended["status_reason"].as_str().unwrap().contains("idle_timeout_s of 1 s"), "{ended}");
    server.stop().await;
}

#[tokio::test]
async fn events_are_the_statuses_in_their_order_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let mut events = api.send(Method::GET, &format!("/bunkers/{id}/events"), &[], "").await;
    let first = events.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(std::str::from_utf8(&first).unwrap().contains(r#""status":"running""#));
    step(api, &id, "pause").await;
    step(api, &id, "resume").await;
    api.delete(&format!("/bunkers/{id}")).await.data();
    let rest = events.into_body().collect().await.unwrap().to_bytes();
    let rest = String::from_utf8(rest.to_vec()).unwrap();
    let statuses: Vec<_> = rest
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .filter_map(|line| line.split(r#""status":""#).nth(1)?.split('"').next())
        .collect();
    assert_eq!(statuses, ["paused", "running", "terminating", "terminated"], "{rest}");
    assert!(rest.ends_with("data: [DONE]\n\n"));
    server.stop().await;
}

#[tokio::test]
async fn an_idle_bunker_that_is_to_be_paused_goes_on_with_the_next_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    *worker.last_active_at.lock().unwrap() = Some(Timestamp::UNIX_EPOCH);
    let body = json!({ "image": "busybox", "idle_timeout_s": 1, "on_idle": "pause" });
    let made = api.post("/bunkers?wait=true", &body).await.data().clone();
    assert_eq!(made["pause_evict_after_s"], 3600);
    let id = made["id"].as_str().unwrap();
    let paused = api.bunker_becomes(id, "paused").await;
    assert!(
        paused["status_reason"].as_str().unwrap().contains("idle_timeout_s of 1 s"),
        "{paused}"
    );
    assert_eq!(cpu_in_use(api).await, 0);
    // Looking at it is no use of it.
    api.get(&format!("/bunkers/{id}/metrics")).await.data();
    assert_eq!(api.get(&format!("/bunkers/{id}")).await.data()["status"], "paused");
    *worker.last_active_at.lock().unwrap() = Some(Timestamp::now());
    let ran = api.post(&format!("/bunkers/{id}/exec"), &json!({ "command": "true" })).await;
    assert_eq!(ran.status.as_u16(), 200, "{}", ran.json);
    let running = api.get(&format!("/bunkers/{id}")).await.data().clone();
    assert_eq!((&running["status"], &running["status_reason"]), (&json!("running"), &Value::Null));
    assert_eq!(cpu_in_use(api).await, 1000);
    // Nobody asked for that of one that is paused by hand.
    let patch = json!({ "on_idle": "terminate", "idle_timeout_s": 600 });
    api.patch(&format!("/bunkers/{id}"), &patch).await.data();
    step(api, id, "pause").await;
    let refused = api.post(&format!("/bunkers/{id}/exec"), &json!({ "command": "true" })).await;
    assert_eq!(refused.error(), (409, "BUNKER_NOT_RUNNING"));
    server.stop().await;
}

//! Restarts of either side, and what both sides make of them.

use std::sync::atomic::Ordering;

use scaibunker_api::{ids::BunkerId, worker::WorkerBunkerState};
use serde_json::json;

use crate::{client::eventually, server::Server, state};

#[tokio::test]
async fn a_restarted_controller_finds_its_bunkers_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(server.api.running_bunker().await);
    }
    let [kept, crashed, gone, ended] = [0, 1, 2, 3].map(|index: usize| ids[index].as_str());
    server.api.delete(&format!("/bunkers/{ended}")).await;
    server.stop().await;

    // What happens while nobody looks.
    let parse = |id: &str| -> BunkerId { id.parse().unwrap() };
    let reason = "out of memory".to_owned();
    worker.held().insert(parse(crashed), WorkerBunkerState::Ended { reason: reason.clone() });
    worker.held().remove(&parse(gone));
    worker.held().insert(parse(ended), WorkerBunkerState::Running);
    worker.held().insert(BunkerId::generate(), WorkerBunkerState::Running);

    let server = Server::start(dir.path()).await;
    let api = &server.api;
    assert_eq!(api.get(&format!("/bunkers/{gone}")).await.data()["status"], "running");
    server.link(&worker).await;
    assert_eq!(api.bunker_becomes(crashed, "failed").await["status_reason"], reason);
    let lost = api.bunker_becomes(gone, "failed").await;
    assert!(lost["status_reason"].as_str().unwrap().contains("no longer holds it"));
    let only_kept = |held: Vec<BunkerId>| held == [parse(kept)];
    assert!(eventually(async || only_kept(worker.held().keys().copied().collect())).await);
    let command = json!({ "command": ["echo", "again"] });
    let echoed = api.post(&format!("/bunkers/{kept}/exec"), &command).await;
    assert_eq!(echoed.data()["stdout"], "again\n");
    let path = format!("/workers/{}", worker.id());
    assert_eq!(api.get(&path).await.data()["allocated"]["memory_mb"], 256);
    server.stop().await;
}

#[tokio::test]
async fn a_start_that_a_restart_cut_off_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    worker.start_delay_ms.store(60_000, Ordering::Relaxed);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let made = server.api.post("/bunkers", &json!({ "image": "busybox" })).await;
        ids.push(made.data()["id"].as_str().unwrap().to_owned());
    }
    assert!(eventually(async || worker.starts.load(Ordering::Relaxed) == 2).await);
    // A copy of the database is what a killed process leaves.
    let left = tempfile::tempdir().unwrap();
    state::copy(dir.path(), left.path());
    server.stop().await;
    worker.held().insert(ids[0].parse().unwrap(), WorkerBunkerState::Running);
    worker.held().remove(&ids[1].parse().unwrap());

    let server = Server::start(left.path()).await;
    server.link(&worker).await;
    server.api.bunker_becomes(&ids[0], "running").await;
    server.api.bunker_becomes(&ids[1], "failed").await;
    server.stop().await;
}

#[tokio::test]
async fn an_end_without_a_link_is_finished_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    worker.cut_link();
    assert!(
        eventually(async || {
            let checks = api.get("//health/ready").await;
            checks.data()["checks"]["linked_workers"] == 0
        })
        .await
    );
    let ending = api.delete(&format!("/bunkers/{id}")).await;
    assert_eq!(ending.data()["status"], "terminating");
    server.link(&worker).await;
    api.bunker_becomes(&id, "terminated").await;
    assert!(worker.held().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_new_link_takes_over_and_running_bunkers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    for _ in 0..3 {
        server.link(&worker).await;
    }
    let command = json!({ "command": ["echo"] });
    let path = format!("/bunkers/{id}/exec");
    assert!(eventually(async || api.post(&path, &command).await.status == 200).await);
    // A heartbeat that was written before a bunker was there does not end it. That the one it does
    // name has ended shows that it was heard.
    let named = api.running_bunker().await;
    let newer = worker.held().remove(&id.parse().unwrap());
    worker.crash(&server.base, &named, "died").await;
    api.bunker_becomes(&named, "failed").await;
    worker.held().extend(newer.map(|state| (id.parse().unwrap(), state)));
    assert_eq!(api.get(&format!("/bunkers/{id}")).await.data()["status"], "running");
    server.stop().await;
}

#[tokio::test]
async fn a_killed_worker_fails_its_start_and_comes_back_clean() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    worker.start_delay_ms.store(60_000, Ordering::Relaxed);
    let api = server.api.clone();
    let create = tokio::spawn(async move {
        api.post("/bunkers?wait=true", &json!({ "image": "busybox" })).await
    });
    assert!(eventually(async || worker.starts.load(Ordering::Relaxed) == 1).await);
    worker.cut_link();
    let failed = create.await.unwrap();
    assert_eq!(failed.data()["status"], "failed");
    assert!(failed.data()["status_reason"].as_str().unwrap().contains("link"));
    worker.start_delay_ms.store(0, Ordering::Relaxed);
    server.link(&worker).await;
    assert!(eventually(async || worker.held().is_empty()).await);
    server.api.running_bunker().await;
    server.stop().await;
}

//! Ends: asked for, by limit, by crash.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;

use crate::{
    client::eventually,
    server::{Server, config},
};

#[tokio::test]
async fn a_deleted_bunker_is_gone_and_stays_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let path = format!("/bunkers/{}", api.running_bunker().await);
    let ended = api.delete(&path).await;
    assert_eq!((ended.status.as_u16(), &ended.data()["status"]), (200, &json!("terminated")));
    assert!(ended.data()["terminated_at"].is_string() && ended.data()["status_reason"].is_null());
    assert!(worker.held().is_empty());
    assert_eq!(api.delete(&path).await.data(), ended.data());
    assert_eq!(api.get(&path).await.data(), ended.data());
    server.stop().await;
}

#[tokio::test]
async fn a_bunker_can_be_ended_while_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    worker.start_delay_ms.store(400, Ordering::Relaxed);
    let api = &server.api;
    let made = api.post("/bunkers", &json!({ "image": "busybox" })).await;
    let id = made.data()["id"].as_str().unwrap();
    assert!(eventually(async || worker.starts.load(Ordering::Relaxed) == 1).await);
    let ended = api.delete(&format!("/bunkers/{id}")).await;
    assert_eq!(ended.data()["status"], "terminated");
    let path = format!("/workers/{}", worker.id());
    assert_eq!(api.get(&path).await.data()["allocated"]["memory_mb"], 0);
    assert!(eventually(async || worker.held().is_empty()).await);
    assert_eq!(api.get(&format!("/bunkers/{id}")).await.data()["status"], "terminated");
    server.stop().await;
}

#[tokio::test]
async fn a_lifetime_that_is_over_ends_the_bunker() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let body = json!({ "image": "busybox", "max_lifetime_s": 1 });
    let made = server.api.post("/bunkers?wait=true", &body).await;
    let id = made.data()["id"].as_str().unwrap();
    let ended = server.api.bunker_becomes(id, "terminated").await;
    assert!(ended["status_reason"].as_str().unwrap().contains("max_lifetime_s of 1 s"));
    assert!(worker.held().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_crash_is_on_record_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let id = server.api.running_bunker().await;
    worker.crash(&server.base, &id, "the guest's kernel panicked").await;
    let failed = server.api.bunker_becomes(&id, "failed").await;
    assert_eq!(failed["status_reason"], "the guest's kernel panicked");
    assert!(eventually(async || worker.held().is_empty()).await, "the worker may forget it");
    let path = format!("/workers/{}", worker.id());
    assert_eq!(server.api.get(&path).await.data()["allocated"]["memory_mb"], 0);
    server.stop().await;
}

#[tokio::test]
async fn a_silent_worker_goes_offline_and_only_then_its_bunkers_fail() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.worker_stale_after = Duration::from_secs(3);
    let server = Server::start_with(config).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    worker.cut_link();
    assert_eq!(api.get(&format!("/bunkers/{id}")).await.data()["status"], "running");
    let failed = api.bunker_becomes(&id, "failed").await;
    assert!(failed["status_reason"].as_str().unwrap().contains("offline"));
    let path = format!("/workers/{}", worker.id());
    assert_eq!(api.get(&path).await.data()["status"], "offline");

    // It comes back, and has to let go of what was given up.
    assert_eq!(worker.held().len(), 1);
    server.link(&worker).await;
    assert!(eventually(async || worker.held().is_empty()).await);
    assert_eq!(api.get(&path).await.data()["status"], "online");
    api.running_bunker().await;
    server.stop().await;
}

//! Workers as operators see them: drained, taken back, removed.

use std::time::Duration;

use http::Method;
use scaibunker_controller::ControllerConfig;
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    people::{person, tenant},
    server::{Server, config},
    sim_worker::SimWorker,
};

async fn worker(api: &Api, worker: &SimWorker) -> Value {
    api.get(&format!("/workers/{}", worker.id())).await.data().clone()
}

async fn order(api: &Api, id: &str, what: &str) -> Value {
    api.post(&format!("/workers/{id}/{what}"), &Value::Null).await.data().clone()
}

#[tokio::test]
async fn a_drained_worker_keeps_its_bunkers_and_gets_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let first = server.worker().await;
    let id = first.id().to_string();
    let api = &server.api;
    let bunker = api.running_bunker().await;
    let drained = order(api, &id, "drain").await;
    assert_eq!((&drained["status"], &drained["bunkers"]), (&json!("draining"), &json!(1)));
    assert_eq!(order(api, &id, "drain").await["drained_at"], drained["drained_at"]);
    let create = json!({ "image": "busybox", "memory_mb": 256 });
    let refused = api.post("/bunkers", &create).await;
    assert_eq!(refused.error(), (503, "WORKER_UNAVAILABLE"));
    let message = refused.json["error"]["message"].as_str().unwrap();
    assert!(message.contains("drained") && message.contains("/resume"), "{message}");
    assert_eq!(api.get(&format!("/bunkers/{bunker}")).await.data()["status"], "running");

    // Another one takes what comes; whatever the worker says of itself, it stays drained.
    let second = server.worker().await;
    server.link(&first).await;
    first.heartbeat(&server.base).await;
    let made = api.post("/bunkers?wait=true", &create).await;
    assert_eq!(made.data()["worker_id"], second.id().to_string());
    assert_eq!(worker(api, &first).await["status"], "draining");

    // So it does over a restart of the controller.
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let api = &server.api;
    server.link(&first).await;
    first.heartbeat(&server.base).await;
    assert_eq!(worker(api, &first).await["status"], "draining");
    api.delete(&format!("/bunkers/{bunker}")).await.data();
    assert!(eventually(async || worker(api, &first).await["status"] == "drained").await);
    assert_eq!(order(api, &id, "resume").await["status"], "online");
    assert_eq!(order(api, &id, "resume").await["drained_at"], Value::Null);
    let made = api.post("/bunkers?wait=true", &create).await;
    assert_eq!(made.data()["worker_id"], id);
}

#[tokio::test]
async fn a_worker_is_removed_when_it_is_gone_and_comes_back_as_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let worker_stale_after = Duration::from_secs(1);
    let config = ControllerConfig { worker_stale_after, ..config(dir.path()) };
    let server = Server::start_with(config).await;
    let (api, sim) = (&server.api, server.worker().await);
    let path = format!("/workers/{}", sim.id());
    let bunker = api.running_bunker().await;
    order(api, &sim.id().to_string(), "drain").await;
    assert_eq!(api.delete(&path).await.error(), (409, "IN_USE"));
    sim.cut_link();
    let offline = eventually(async || worker(api, &sim).await["status"] == "offline");
    assert!(offline.await);
    // Its bunkers fail within seconds, and then nothing is in the way.
    let removed = eventually(async || {
        api.send(Method::DELETE, &path, &[], "").await.status() == http::StatusCode::NO_CONTENT
    });
    assert!(removed.await);
    let ended = api.get(&format!("/bunkers/{bunker}")).await.data().clone();
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(api.get(&path).await.error(), (404, "NOT_FOUND"));
    assert_eq!(api.delete(&path).await.error(), (404, "NOT_FOUND"));
    let groups = api.get("/availability-groups").await.data().clone();
    assert_eq!(groups[0]["worker_ids"], json!([]));
    server.link(&sim).await;
    assert_eq!(worker(api, &sim).await["drained_at"], Value::Null);
    let groups = api.get("/availability-groups").await.data().clone();
    assert_eq!(groups[0]["worker_ids"], json!([sim.id().to_string()]));
}

#[tokio::test]
async fn workers_are_the_operators() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let id = server.worker().await.id().to_string();
    let tenant = tenant(&server.api, "t").await;
    let admin = person(&server.api, &tenant, "tenant_admin", &[]).await.api;
    for what in ["drain", "resume"] {
        let answer = admin.post(&format!("/workers/{id}/{what}"), &Value::Null).await;
        assert_eq!(answer.error(), (403, "FORBIDDEN"));
    }
    assert_eq!(admin.delete(&format!("/workers/{id}")).await.error(), (403, "FORBIDDEN"));
    let unknown = "/workers/wrk_00000000000000000000000000/drain";
    assert_eq!(server.api.post(unknown, &Value::Null).await.error(), (404, "NOT_FOUND"));
}

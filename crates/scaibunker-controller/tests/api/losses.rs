//! What controllers lose, and that nothing is lost with it.

use serde_json::json;

use crate::{
    client::eventually,
    server::{Server, config},
    state,
};

async fn used(server: &Server, resource: &str) -> u64 {
    let usage = server.api.get("/quota-profiles/usage").await;
    usage.data()[0]["resources"][resource]["current"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_is_filled_from_the_database_and_the_next_heartbeats() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(state::on_servers(config(dir.path()))).await;
    let worker = server.worker().await;
    let api = &server.api;
    let (first, second) = (api.running_bunker().await, api.running_bunker().await);
    api.post(&format!("/bunkers/{first}/pause"), &json!({})).await.data();
    let before = (used(&server, "concurrent_bunkers").await, used(&server, "cpu_millicores").await);
    assert_eq!(before, (2, 1000));

    state::wipe_redis(dir.path());
    let after = (used(&server, "concurrent_bunkers").await, used(&server, "cpu_millicores").await);
    assert_eq!(after, before);
    // Who changes something first finds it wiped, too.
    state::wipe_redis(dir.path());
    let third = api.running_bunker().await;
    assert_eq!(used(&server, "concurrent_bunkers").await, 3);
    state::wipe_redis(dir.path());
    for id in [&first, &second, &third] {
        api.delete(&format!("/bunkers/{id}")).await.data();
    }
    assert_eq!(used(&server, "concurrent_bunkers").await, 0);

    state::wipe_redis(dir.path());
    let path = format!("/workers/{}", worker.id());
    assert_eq!(api.get(&path).await.data()["status"], "online");
    worker.heartbeat(&server.base).await;
    api.running_bunker().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_on_one_database_and_redis_share_a_cap() {
    let dir = tempfile::tempdir().unwrap();
    let shared = state::on_servers(config(dir.path()));
    let one = Server::start_with(shared.clone()).await;
    let other_dir = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("admin.key"), other_dir.path().join("admin.key")).unwrap();
    let mut config = shared;
    config.data_dir = other_dir.path().to_owned();
    let other = Server::start_with(config).await;
    let default = one.api.get("/quota-profiles").await.data()[0]["id"].clone();
    let path = format!("/quota-profiles/{}", default.as_str().unwrap());
    one.api.patch(&path, &json!({ "max_concurrent_bunkers": 3 })).await.data();
    let (worker_of_one, worker_of_other) = (one.worker().await, other.worker().await);
    // The other controller has remembered the caller's caps for at most two seconds.
    let knows = eventually(async || {
        let usage = other.api.get("/quota-profiles/usage").await;
        usage.data()[0]["resources"]["concurrent_bunkers"]["cap"] == 3
    });
    assert!(knows.await);

    let body = json!({ "image": "busybox" });
    let mut made = 0;
    for server in [&one, &other, &one, &other, &one, &other] {
        let answer = server.api.post("/bunkers?wait=true", &body).await;
        match answer.status.as_u16() {
            201 => made += 1,
            _ => assert_eq!(answer.error(), (429, "BUNKER_QUOTA_EXCEEDED"), "{}", answer.json),
        }
    }
    assert_eq!(made, 3);
    assert_eq!(worker_of_one.held().len() + worker_of_other.held().len(), 3);
    assert_eq!(used(&one, "concurrent_bunkers").await, 3);
    one.stop().await;
    other.stop().await;
}

//! Many at once against one cap.

use futures_util::future::join_all;
use serde_json::json;

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_200_concurrent_creates_against_a_cap_of_10_exactly_10_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    {
        let mut capacity = worker.capacity.lock().unwrap();
        capacity.cpu_millicores = 1 << 30;
        capacity.memory_mb = 1 << 30;
        capacity.disk_mb = 1 << 30;
    }
    server.link(&worker).await;
    let api = &server.api;
    let profiles = api.get("/quota-profiles").await;
    let default = profiles.data()[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/quota-profiles/{default}");
    api.patch(&path, &json!({ "max_concurrent_bunkers": 10 })).await.data();

    let body = json!({ "image": "busybox" });
    let answers = join_all((0..200).map(|_| api.post("/bunkers?wait=true", &body))).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 10);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!(answer.error(), (429, "BUNKER_QUOTA_EXCEEDED"), "{}", answer.json);
    }
    assert_eq!(worker.held().len(), 10);
    let ends = answers.iter().filter(|answer| answer.status == 201).map(|answer| {
        let path = format!("/bunkers/{}", answer.data()["id"].as_str().unwrap());
        async move { api.delete(&path).await }
    });
    for ended in join_all(ends).await {
        ended.data();
    }
    let usage = api.get("/quota-profiles/usage").await;
    assert_eq!(usage.data()[0]["resources"]["concurrent_bunkers"]["current"], 0);
    server.stop().await;
}

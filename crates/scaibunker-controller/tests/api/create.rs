//! Creating bunkers.

use std::sync::atomic::Ordering;

use http::Method;
use scaibunker_api::worker::Capacity;
use serde_json::{Value, json};

use crate::{
    client::{Answer, eventually},
    server::Server,
    sim_worker::SimWorker,
};

#[tokio::test]
async fn a_bunker_is_pending_at_once_and_running_soon() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let answer = server
        .api
        .post("/bunkers", &json!({ "image": "busybox", "name": "a", "label_set": {"k": "v"} }))
        .await;
    assert_eq!(answer.status, 201);
    let record = answer.data().clone();
    assert_eq!(record["status"], "pending");
    assert_eq!(record["worker_id"], worker.id().to_string());
    assert_eq!((&record["memory_mb"], &record["idle_timeout_s"]), (&json!(256), &json!(300)));
    assert_eq!(record["label_set"], json!({ "k": "v" }));
    assert_eq!(record["created_at"].as_str().unwrap().len(), "2026-01-02T03:04:05.678Z".len());
    let running = server.api.bunker_becomes(record["id"].as_str().unwrap(), "running").await;
    assert!(running["started_at"].is_string() && running["expires_at"].is_string());
    assert_eq!(running["ip_address"], "10.201.0.2");
    let request_id = answer.json["meta"]["request_id"].as_str().unwrap().to_owned();
    assert!(worker.request_ids.lock().unwrap().contains(&request_id));
    server.stop().await;
}

#[tokio::test]
async fn waiting_ends_with_the_start_its_failure_or_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    server.api.running_bunker().await;

    *worker.start_fault.lock().unwrap() = Some("no such device".to_owned());
    let failed = server.api.post("/bunkers?wait=true", &json!({ "image": "busybox" })).await;
    assert_eq!(failed.data()["status"], "failed");
    assert!(failed.data()["status_reason"].as_str().unwrap().contains("no such device"));
    assert!(eventually(async || worker.held().len() == 1).await, "the failed one is forgotten");

    *worker.start_fault.lock().unwrap() = None;
    worker.start_delay_ms.store(1_500, Ordering::Relaxed);
    let slow = server
        .api
        .post("/bunkers?wait=true&wait_timeout_s=1", &json!({ "image": "busybox" }))
        .await;
    assert_eq!(slow.data()["status"], "provisioning");
    server.api.bunker_becomes(slow.data()["id"].as_str().unwrap(), "running").await;
    server.stop().await;
}

#[tokio::test]
async fn without_a_worker_nothing_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let create = async || server.api.post("/bunkers", &json!({ "image": "busybox" })).await;
    let none = create().await;
    assert_eq!(none.error(), (503, "WORKER_UNAVAILABLE"));
    assert!(none.json["error"]["message"].as_str().unwrap().contains("linked"));

    let worker = server.worker().await;
    worker.cut_link();
    let refused = async || {
        let answer = create().await;
        !answer.status.is_success() && answer.error() == (503, "WORKER_UNAVAILABLE")
    };
    assert!(eventually(refused).await);
    let list = server.api.get("/bunkers").await;
    assert!(list.data().as_array().unwrap().iter().all(|bunker| bunker["status"] != "pending"));
    server.stop().await;
}

#[tokio::test]
async fn concurrent_creates_never_take_more_than_there_is_and_give_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = SimWorker::new();
    *worker.capacity.lock().unwrap() =
        Capacity { cpu_millicores: 100_000, memory_mb: 1_280, disk_mb: 100_000, gpu_count: 0 };
    server.link(&worker).await;
    for _ in 0..2 {
        let creates = (0..20).map(|_| {
            let api = server.api.clone();
            tokio::spawn(async move {
                api.post("/bunkers?wait=true", &json!({ "image": "busybox" })).await
            })
        });
        let mut made = Vec::new();
        for create in creates.collect::<Vec<_>>() {
            let answer = create.await.unwrap();
            if answer.status == 201 {
                assert_eq!(answer.data()["status"], "running");
                made.push(answer.data()["id"].as_str().unwrap().to_owned());
            } else {
                assert_eq!(answer.error(), (503, "WORKER_UNAVAILABLE"));
                assert_eq!(answer.fields(), ["memory_mb"]);
                assert!(answer.json.to_string().contains("largest free amount is 0"));
                assert_eq!(answer.headers["retry-after"], "1");
            }
        }
        assert_eq!(made.len(), 5, "1280 MiB hold five of 256");
        let path = format!("/workers/{}", worker.id());
        assert_eq!(server.api.get(&path).await.data()["allocated"]["memory_mb"], 1_280);
        for id in made {
            let ended = server.api.delete(&format!("/bunkers/{id}")).await;
            assert_eq!(ended.data()["status"], "terminated");
            server.api.delete(&format!("/bunkers/{id}")).await;
        }
        let allocated = &server.api.get(&path).await.data()["allocated"].clone();
        assert_eq!(
            allocated,
            &json!({ "cpu_millicores": 0, "memory_mb": 0, "disk_mb": 0, "gpu_count": 0 })
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let create = async |server: &Server, path: &str, key: &str, body: Value| {
        let headers = [("idempotency-key", key)];
        server.api.call(Method::POST, path, &headers, body.to_string()).await
    };
    let body = json!({ "image": "busybox", "name": "a" });
    let same = json!({ "name": "a", "image": "busybox" });
    let first = create(&server, "/bunkers", "k1", body.clone()).await;
    let waited = create(&server, "/bunkers?wait=true", "k2", body.clone()).await;
    let id = first.data()["id"].as_str().unwrap();
    server.api.bunker_becomes(id, "running").await;
    assert_eq!(create(&server, "/bunkers", "k1", same.clone()).await.data(), first.data());
    let other = create(&server, "/bunkers", "k1", json!({ "image": "busybox" })).await;
    assert_eq!(other.error(), (409, "IDEMPOTENCY_CONFLICT"));
    server.stop().await;

    let server = Server::start(dir.path()).await;
    let again = create(&server, "/bunkers?wait=true", "k2", same).await;
    assert_eq!((again.status.as_u16(), again.data()), (201, waited.data()));
    assert_eq!(worker.starts.load(Ordering::Relaxed), 2);
    server.stop().await;
}

#[tokio::test]
async fn concurrent_requests_with_one_key_make_one_bunker() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = SimWorker::new();
    worker.capacity.lock().unwrap().memory_mb = 256;
    server.link(&worker).await;
    worker.start_delay_ms.store(100, Ordering::Relaxed);
    let creates = (0..8).map(|_| {
        let api = server.api.clone();
        tokio::spawn(async move {
            let headers = [("idempotency-key", "one")];
            let body = json!({ "image": "busybox" }).to_string();
            api.call(Method::POST, "/bunkers?wait=true", &headers, body).await
        })
    });
    let mut answers = Vec::new();
    for create in creates.collect::<Vec<_>>() {
        answers.push(create.await.unwrap().data().clone());
    }
    assert_eq!(answers[0]["status"], "running");
    assert!(answers.iter().all(|answer| answer["id"] == answers[0]["id"]));
    assert_eq!(worker.starts.load(Ordering::Relaxed), 1);
    let worker = server.api.get(&format!("/workers/{}", worker.id())).await;
    assert_eq!(worker.data()["allocated"]["memory_mb"], 256, "the losers took nothing");
    server.stop().await;
}

#[tokio::test]
async fn gpus_go_to_those_who_ask_for_them_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let (plain, with_gpus) = (SimWorker::new(), SimWorker::new());
    with_gpus.capacity.lock().unwrap().gpu_count = 2;
    server.link(&plain).await;
    server.link(&with_gpus).await;
    let create = async |gpus: u32, kind: Option<&str>| {
        let body = json!({ "image": "busybox", "gpu_count": gpus, "gpu_type": kind });
        server.api.post("/bunkers?wait=true", &body).await
    };
    let worker_of = |answer: &Answer| answer.data()["worker_id"].as_str().unwrap().to_owned();
    let one = create(1, Some("sim-gpu")).await;
    assert_eq!(
        (&one.data()["gpu_count"], worker_of(&one)),
        (&json!(1), with_gpus.id().to_string())
    );
    // Who needs none does not take the room of those who do.
    assert_eq!(worker_of(&create(0, None).await), plain.id().to_string());
    let refused = create(2, None).await;
    assert_eq!(refused.error(), (503, "WORKER_UNAVAILABLE"));
    assert_eq!(refused.fields(), ["gpu_count"]);
    assert!(refused.json.to_string().contains("the largest free amount is 1"), "{}", refused.json);
    let other = create(1, Some("other-gpu")).await;
    assert_eq!((other.error(), other.fields()), ((503, "WORKER_UNAVAILABLE"), vec!["gpu_type"]));
    assert_eq!(create(0, Some("sim-gpu")).await.error(), (422, "VALIDATION_ERROR"));
    let path = format!("/workers/{}", with_gpus.id());
    let shown = server.api.get(&path).await.data().clone();
    assert_eq!(
        (&shown["allocated"]["gpu_count"], &shown["gpu_type"]),
        (&json!(1), &json!("sim-gpu"))
    );
    let usage = server.api.get("/quota-profiles/usage").await.data().clone();
    assert_eq!(usage[0]["resources"]["gpu_count"]["current"], 1, "{usage}");
    server.api.delete(&format!("/bunkers/{}", one.data()["id"].as_str().unwrap())).await.data();
    let both = eventually(async || create(2, Some("sim-gpu")).await.status == 201);
    assert!(both.await);
    server.stop().await;
}

//! Paused bunkers whose memory is written out, and their way back.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    server::Server,
};

async fn allocated_mb(api: &Api) -> u64 {
    let workers = api.get("/workers").await;
    let allocated = workers.data().as_array().unwrap().iter();
    allocated.map(|worker| worker["allocated"]["memory_mb"].as_u64().unwrap()).sum()
}

async fn in_use(api: &Api, resource: &str) -> u64 {
    let usage = api.get("/quota-profiles/usage").await;
    usage.data()[0]["resources"][resource]["current"].as_u64().unwrap()
}

async fn evicted(api: &Api) -> String {
    let body = json!({ "image": "busybox", "pause_evict_after_s": 1 });
    let made = api.post("/bunkers?wait=true", &body).await.data().clone();
    let id = made["id"].as_str().unwrap().to_owned();
    api.post(&format!("/bunkers/{id}/pause"), &Value::Null).await.data();
    let path = format!("/bunkers/{id}");
    assert!(eventually(async || api.get(&path).await.data()["evicted"] == true).await);
    id
}

#[tokio::test]
async fn one_that_is_written_out_has_no_worker_and_keeps_its_quota() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    *worker.snapshots.disk.lock().unwrap() = vec![1, 2, 3];
    let api = &server.api;
    let id = evicted(api).await;
    let path = format!("/bunkers/{id}");
    let record = api.get(&path).await.data().clone();
    assert_eq!((&record["status"], &record["worker_id"]), (&json!("paused"), &Value::Null));
    assert!(eventually(async || worker.held().is_empty()).await);
    assert_eq!(allocated_mb(api).await, 0);
    for (resource, amount) in [("concurrent_bunkers", 1), ("memory_mb", 256), ("cpu_millicores", 0)]
    {
        assert_eq!(in_use(api, resource).await, amount, "{resource}");
    }
    let taken = worker.snapshots.taken.lock().unwrap().pop().unwrap();
    assert!(taken.evicts && taken.memory_of.is_some());
    // It is no snapshot that anybody sees.
    assert_eq!(api.get("/snapshots").await.data(), &json!([]));
    for call in ["fork?wait=true", "snapshot?wait=true"] {
        let refused = api.post(&format!("{path}/{call}"), &json!({ "count": 1 })).await;
        assert!([409, 422].contains(&refused.status.as_u16()), "{call}: {}", refused.json);
    }
    let refused = api.get(&format!("{path}/metrics")).await;
    assert_eq!(refused.error(), (409, "BUNKER_NOT_RUNNING"));
    worker.heartbeat(&server.base).await;
    assert_eq!(api.get(&path).await.data()["status"], "paused");

    // A worker that fails to bring it back loses nothing.
    *worker.start_fault.lock().unwrap() = Some("no memory left".to_owned());
    let failed = api.post(&format!("{path}/resume"), &Value::Null).await;
    assert_eq!(failed.status.as_u16(), 502, "{}", failed.json);
    assert_eq!((allocated_mb(api).await, in_use(api, "cpu_millicores").await), (0, 0));
    *worker.start_fault.lock().unwrap() = None;
    let resumed = (0..4).map(async |_| api.post(&format!("{path}/resume"), &Value::Null).await);
    for resumed in futures_util::future::join_all(resumed).await {
        assert_eq!(resumed.data()["status"], "running", "{}", resumed.json);
        assert_eq!(resumed.data()["evicted"], false);
    }
    assert_eq!(worker.starts.load(Ordering::Relaxed), 3, "one of many brought it back");
    let restored = worker.snapshots.restored.lock().unwrap().last().cloned().unwrap();
    assert!(restored.goes_on);
    assert_eq!((allocated_mb(api).await, in_use(api, "cpu_millicores").await), (256, 1000));
    assert_eq!(worker.held().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn one_that_is_written_out_ends_without_a_worker_and_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    *worker.snapshots.disk.lock().unwrap() = vec![1, 2, 3];
    let api = &server.api;
    let (gone, kept) = (evicted(api).await, evicted(api).await);
    let ended = api.delete(&format!("/bunkers/{gone}")).await;
    assert_eq!(ended.data()["status"], "terminated", "{}", ended.json);
    assert_eq!(in_use(api, "concurrent_bunkers").await, 1);
    api.delete(&format!("/bunkers/{kept}?snapshot=true")).await.data();
    let listed = api.get("/snapshots").await.data().clone();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["bunker_id"], &listed[0]["kind"]), (&json!(kept), &json!("memory")));
    assert!(listed[0]["expires_at"].is_string());
    server.stop().await;
}

#[tokio::test]
async fn one_whose_commands_run_is_not_written_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    *worker.snapshots.fault.lock().unwrap() = Some("commands run in it".to_owned());
    let api = &server.api;
    let body = json!({ "image": "busybox", "pause_evict_after_s": 1 });
    let made = api.post("/bunkers?wait=true", &body).await.data().clone();
    let path = format!("/bunkers/{}", made["id"].as_str().unwrap());
    api.post(&format!("{path}/pause"), &Value::Null).await.data();
    let asked = async || worker.snapshots.refused.load(Ordering::Relaxed) > 0;
    assert!(eventually(asked).await);
    let record = api.get(&path).await.data().clone();
    assert_eq!((&record["status"], &record["evicted"]), (&json!("paused"), &json!(false)));
    let resumed = api.post(&format!("{path}/resume"), &Value::Null).await;
    assert_eq!(resumed.data()["status"], "running");
    assert_eq!(api.get("/snapshots").await.data(), &json!([]));
    server.stop().await;
}

//! Forks: all children or none, each with its place in the quotas.

use http::Method;
use serde_json::{Value, json};

use crate::{client::Api, server::Server};

async fn allocated_mb(api: &Api) -> u64 {
    let workers = api.get("/workers").await;
    workers.data()[0]["allocated"]["memory_mb"].as_u64().unwrap()
}

#[tokio::test]
async fn children_are_bunkers_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let labels = json!({ "image": "busybox", "label_set": { "task": "one" }, "name": "parent" });
    let parent = api.post("/bunkers?wait=true", &labels).await.data().clone();
    let path = format!("/bunkers/{}/fork?wait=true", parent["id"].as_str().unwrap());
    let key = [("idempotency-key", "fork-1")];
    let body = json!({ "count": 3 }).to_string();
    let forked = api.call(Method::POST, &path, &key, body.clone()).await;
    assert_eq!(forked.status.as_u16(), 201, "{}", forked.json);
    let children = forked.data().as_array().unwrap().clone();
    assert_eq!(children.len(), 3);
    for child in &children {
        assert_eq!((&child["status"], &child["parent_id"]), (&json!("running"), &parent["id"]));
        for field in ["worker_id", "image_id", "label_set", "memory_mb", "owner_id"] {
            assert_eq!(child[field], parent[field], "{field}");
        }
        assert!(worker.held().contains_key(&child["id"].as_str().unwrap().parse().unwrap()));
    }
    assert_eq!(allocated_mb(api).await, 4 * 256);
    // Again, it is the same children.
    let again = api.call(Method::POST, &path, &key, body).await;
    let ids = |list: &[Value]| list.iter().map(|child| child["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(again.data().as_array().unwrap()), ids(&children));
    assert_eq!(worker.held().len(), 4);
    for child in &children {
        api.delete(&format!("/bunkers/{}", child["id"].as_str().unwrap())).await.data();
    }
    assert_eq!(allocated_mb(api).await, 256);
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_fork_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let path = format!("/bunkers/{id}/fork?wait=true");
    for count in [0, 101] {
        let refused = api.post(&path, &json!({ "count": count })).await;
        assert_eq!(refused.error(), (422, "VALIDATION_ERROR"));
    }
    // The worker has room for seven of them.
    let refused = api.post(&path, &json!({ "count": 8 })).await;
    assert_eq!(refused.error(), (503, "WORKER_UNAVAILABLE"));
    assert_eq!(allocated_mb(api).await, 256);
    let usage = api.get("/quota-profiles/usage").await;
    assert_eq!(usage.data()[0]["resources"]["concurrent_bunkers"]["current"], 1);

    *worker.start_fault.lock().unwrap() = Some("no memory left".to_owned());
    let failed = api.post(&path, &json!({ "count": 2 })).await;
    for child in failed.data().as_array().unwrap() {
        assert_eq!(child["status"], "failed");
        assert_eq!(child["status_reason"], "no memory left");
    }
    assert_eq!(worker.held().len(), 1);
    assert_eq!(allocated_mb(api).await, 256);
    api.delete(&format!("/bunkers/{id}")).await.data();
    let refused = api.post(&path, &json!({ "count": 1 })).await;
    assert_eq!(refused.error(), (409, "BUNKER_NOT_RUNNING"));
    server.stop().await;
}

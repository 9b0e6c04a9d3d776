//! Snapshots as the controller keeps them.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, eventually},
    people::{person, tenant},
    server::Server,
};

async fn take(api: &Api, bunker: &str, body: Value) -> Answer {
    api.post(&format!("/bunkers/{bunker}/snapshot?wait=true"), &body).await
}

fn id_of(answer: &Answer) -> String {
    answer.data()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_stored_already_is_referred_to() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let bunker = api.running_bunker().await;
    *worker.snapshots.disk.lock().unwrap() = (0..200).collect();
    let first = take(api, &bunker, json!({ "name": "first" })).await;
    assert_eq!(first.data()["status"], "ready", "{}", first.json);
    assert_eq!(first.data()["size_bytes"], 200 * 256 * 1024);
    *worker.snapshots.disk.lock().unwrap() = (1..202).map(|number: u32| number as u8).collect();
    let second = take(api, &bunker, json!({})).await;
    assert_eq!(second.data()["status"], "ready", "{}", second.json);
    assert_eq!(*worker.snapshots.asked.lock().unwrap(), [200, 2]);

    // Another tenant's are its own.
    let other = person(api, &tenant(api, "other").await, "tenant_admin", &[]).await;
    let theirs = other.api.running_bunker().await;
    take(&other.api, &theirs, json!({})).await.data();
    assert_eq!(worker.snapshots.asked.lock().unwrap().last(), Some(&201));
    let path = format!("/snapshots/{}", id_of(&first));
    assert_eq!(other.api.get(&path).await.error(), (404, "NOT_FOUND"));
    assert_eq!(other.api.get("/snapshots").await.data().as_array().unwrap().len(), 1);

    let body = json!({ "snapshot_id": id_of(&second) });
    let made = api.post("/bunkers?wait=true", &body).await;
    assert_eq!(
        (&made.data()["status"], &made.data()["image"]),
        (&json!("running"), &json!("busybox"))
    );
    let restored = worker.snapshots.restored.lock().unwrap().clone();
    assert_eq!(restored[0].snapshot.snapshot_id.to_string(), id_of(&second));
    assert_eq!(other.api.post("/bunkers", &body).await.error(), (404, "NOT_FOUND"));

    let image = made.data()["image_id"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&path).await.data()["image_id"], image);
    let patch = json!({ "name": null, "expires_at": "2099-01-01T00:00:00Z" });
    let patched = api.call(Method::PATCH, &path, &[], patch.to_string()).await;
    assert_eq!(patched.data()["name"], Value::Null);
    assert_eq!(patched.data()["expires_at"], "2099-01-01T00:00:00.000Z");
    api.done(Method::DELETE, &path, &Value::Null).await;
    assert_eq!(api.get(&path).await.error(), (404, "NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn one_that_fails_says_why_and_refers_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let bunker = api.running_bunker().await;
    *worker.snapshots.fault.lock().unwrap() = Some("the host's disk is full".to_owned());
    let failed = take(api, &bunker, json!({})).await;
    assert_eq!(failed.data()["status"], "failed");
    assert_eq!(failed.data()["status_reason"], "the host's disk is full");
    let body = json!({ "snapshot_id": id_of(&failed) });
    let refused = api.post("/bunkers", &body).await;
    assert_eq!(refused.error(), (409, "SNAPSHOT_NOT_READY"));
    // The bunker stays when its last snapshot fails.
    let path = format!("/bunkers/{bunker}?snapshot=true");
    assert_eq!(api.delete(&path).await.error(), (409, "SNAPSHOT_NOT_READY"));
    assert_eq!(api.get(&format!("/bunkers/{bunker}")).await.data()["status"], "running");
    *worker.snapshots.fault.lock().unwrap() = None;
    api.delete(&path).await.data();
    let last = api.get("/snapshots").await.data()[0].clone();
    assert_eq!(last["status"], "ready");
    assert!(last["expires_at"].is_string());
    let gone = take(api, &bunker, json!({})).await;
    assert_eq!(gone.error(), (409, "BUNKER_NOT_RUNNING"));
    server.stop().await;
}

#[tokio::test]
async fn who_asks_again_gets_the_same_and_who_does_not_wait_is_answered_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let bunker = api.running_bunker().await;
    *worker.snapshots.is_slow.lock().unwrap() = true;
    let path = format!("/bunkers/{bunker}/snapshot");
    let key = [("idempotency-key", "once"), ("content-type", "application/json")];
    let first = api.call(Method::POST, &path, &key, "{}").await;
    assert_eq!(first.data()["status"], "creating");
    let again = api.call(Method::POST, &path, &key, "{}").await;
    assert_eq!(again.data(), first.data());
    let other = api.call(Method::POST, &path, &key, r#"{"name":"x"}"#).await;
    assert_eq!(other.error(), (409, "IDEMPOTENCY_CONFLICT"));
    let record = format!("/snapshots/{}", id_of(&first));
    let verify = format!("{record}/verify");
    assert_eq!(api.post(&verify, &Value::Null).await.error(), (409, "SNAPSHOT_NOT_READY"));
    worker.snapshots.go_on.notify_one();
    let is_ready = async || api.get(&record).await.data()["status"] == "ready";
    assert!(eventually(is_ready).await);
    // Nothing was stored by this worker, which is no secret.
    let check = api.post(&verify, &Value::Null).await;
    assert_eq!(check.data()["damage"], json!(["its manifest is gone"]));
    assert_eq!(api.get("/snapshots").await.data().as_array().unwrap().len(), 1);
    server.stop().await;
}

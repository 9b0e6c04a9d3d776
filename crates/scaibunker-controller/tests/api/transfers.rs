//! Files that go through the object store.

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use scaibunker_api::{API_PREFIX, ids::BunkerId};
use scaibunker_controller::ControllerConfig;
use serde_json::json;

use crate::server::{Server, WORKER_TOKEN, config};

/// Sends without a credential, as whoever was given the URL does.
async fn put(url: &str, body: impl Into<Bytes>) -> u16 {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::put(url).body(Full::new(body.into())).unwrap();
    let answer = client.request(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn a_large_file_is_uploaded_and_committed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let files = format!("/bunkers/{id}/files");
    let large = vec![7; 11 * 1024 * 1024];
    let upload = api.post(&format!("{files}/upload"), &json!({ "size_bytes": large.len() })).await;
    assert_eq!(upload.status, 201);
    let upload = upload.data();
    let (url, key) = (upload["url"].as_str().unwrap(), upload["key"].as_str().unwrap());
    assert!(url.starts_with(&format!("{}{API_PREFIX}/storage/{key}?", server.base)), "{url}");
    assert!(key.starts_with(&format!("files/{id}/")));
    assert_eq!((&upload["method"], &upload["headers"]), (&json!("PUT"), &json!({})));
    assert!(upload["expires_at"].is_string());

    let commit = json!({ "key": key, "dest_path": "/data/large", "mode": "0640" });
    let early = api.post(&format!("{files}/commit"), &commit).await;
    assert_eq!(early.error(), (404, "UPLOAD_NOT_FOUND"));
    assert_eq!(put(url, large.clone()).await, 201);
    assert_eq!(put(&url.replace("signature=", "signature=0"), "x").await, 401);
    let committed = api.post(&format!("{files}/commit"), &commit).await;
    assert_eq!(committed.status, 200, "{}", committed.json);
    assert_eq!(
        (&committed.data()["path"], &committed.data()["mode"]),
        (&json!("/data/large"), &json!("0640"))
    );
    let read = api.raw(Method::GET, &format!("{files}/data/large"), &[], "").await;
    assert_eq!(read.body(), &large);
    let again = api.post(&format!("{files}/commit"), &commit).await;
    assert_eq!(again.error(), (404, "UPLOAD_NOT_FOUND"), "an upload is used up");
    server.stop().await;
}

#[tokio::test]
async fn a_bunker_commits_its_own_uploads_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let (id, other) = (api.running_bunker().await, api.running_bunker().await);
    let upload = api.post(&format!("/bunkers/{other}/files/upload"), &json!({})).await;
    let key = upload.data()["key"].as_str().unwrap();
    assert_eq!(put(upload.data()["url"].as_str().unwrap(), "x").await, 201);
    let forged = format!("files/{id}/../{}", key.trim_start_matches("files/"));
    for key in [key, "images/x", &forged, ""] {
        let commit = json!({ "key": key, "dest_path": "/x" });
        let refused = api.post(&format!("/bunkers/{id}/files/commit"), &commit).await;
        assert_eq!(refused.error(), (404, "UPLOAD_NOT_FOUND"), "{key}");
    }
    server.stop().await;
}

#[tokio::test]
async fn signed_urls_lead_to_the_public_address_and_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let public_url = Some("https://bunkers.example/".to_owned());
    let server = Server::start_with(ControllerConfig { public_url, ..config(dir.path()) }).await;
    let worker = server.worker().await;
    let id = server.api.running_bunker().await;
    let upload = server.api.post(&format!("/bunkers/{id}/files/upload"), &json!({})).await;
    let url = upload.data()["url"].as_str().unwrap().to_owned();
    let path = url.strip_prefix("https://bunkers.example").unwrap().to_owned();
    server.stop().await;

    let server = Server::start(dir.path()).await;
    server.link(&worker).await;
    assert_eq!(put(&format!("{}{path}", server.base), "x").await, 201);
    server.stop().await;
    let capability_secret = Some("another secret".to_owned());
    let server =
        Server::start_with(ControllerConfig { capability_secret, ..config(dir.path()) }).await;
    assert_eq!(put(&format!("{}{path}", server.base), "x").await, 401);
    server.stop().await;
}

#[tokio::test]
async fn whole_outputs_are_read_with_an_api_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let body = json!({ "command": ["bytes", "3000000"] });
    let answer = api.post(&format!("/bunkers/{id}/exec"), &body).await;
    let reference = answer.data()["full_output_ref"].as_str().unwrap();
    let missing = api.get(reference).await;
    assert_eq!(missing.error(), (404, "NOT_FOUND"), "the simulated worker stores nothing");
    let worker = api.with_key(WORKER_TOKEN);
    for (segment, text) in [("000000", "first "), ("000001", "second")] {
        let path = format!("{reference}/{segment}");
        assert_eq!(worker.call(Method::PUT, &path, &[], text).await.status, 201);
    }
    for api in [api, &worker] {
        let whole = api.raw(Method::GET, reference, &[], "").await;
        assert_eq!((whole.status().as_u16(), whole.body()), (200, &Bytes::from("first second")));
        let part = api.raw(Method::GET, reference, &[("range", "bytes=4-8")], "").await;
        assert_eq!((part.status().as_u16(), part.body()), (206, &Bytes::from("t sec")));
        let head = api.raw(Method::HEAD, reference, &[], "").await;
        assert_eq!(
            (&head.headers()["content-length"], head.body().len()),
            (&"12".parse().unwrap(), 0)
        );
    }
    api.delete(&format!("/bunkers/{id}")).await;
    assert_eq!(
        api.raw(Method::GET, reference, &[], "").await.status(),
        200,
        "it outlives its bunker"
    );

    let strange = format!("/storage/output/{}/x", BunkerId::generate());
    assert_eq!(api.get(&strange).await.error(), (404, "NOT_FOUND"));
    assert_eq!(api.with_key("sgk_wrong").get(reference).await.error(), (401, "UNAUTHORIZED"));
    assert_eq!(api.with_key("").get(reference).await.error(), (401, "UNAUTHORIZED"));
    assert_eq!(api.get(&format!("/storage/files/{id}/x")).await.error(), (401, "UNAUTHORIZED"));
    let write = api.call(Method::PUT, reference, &[], "x").await;
    assert_eq!(write.error(), (401, "UNAUTHORIZED"), "outputs are written by workers");
    server.stop().await;
}

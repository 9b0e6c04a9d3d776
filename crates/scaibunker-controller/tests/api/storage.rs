//! The storage proxy behind the controller's address.

use http::Method;
use http_body_util::BodyExt as _;
use scaibunker_controller::ControllerConfig;
use serde_json::{Value, json};

use crate::{
    people::{person, tenant},
    server::{Server, WORKER_TOKEN, config},
};

#[tokio::test]
async fn workers_store_objects_and_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.api.with_key(WORKER_TOKEN);
    let path = "/storage/output/bnk_1/log";
    let object = vec![7u8; 3 * 1024 * 1024];
    let stored = worker.call(Method::PUT, path, &[], object.clone()).await;
    assert_eq!((stored.status.as_u16(), &stored.data()["size_bytes"]), (201, &object.len().into()));
    let read = worker.send(Method::GET, path, &[], "").await;
    assert!(read.headers().contains_key("x-request-id"));
    assert_eq!(read.into_body().collect().await.unwrap().to_bytes(), object);
    assert_eq!(worker.get("/storage/output/nothing").await.error(), (404, "NOT_FOUND"));
    assert_eq!(server.api.get(path).await.error(), (401, "UNAUTHORIZED"));
    server.stop().await;
}

fn wanted(prefix: &str) -> Value {
    json!({ "prefix": prefix, "methods": ["PUT", "GET"], "ttl_s": 60 })
}

/// What a token opens is tested with the storage proxy; here is who gets one, for what.
#[tokio::test]
async fn capabilities_are_minted_within_the_callers_reach() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let root = &server.api;
    let [own, other] = [tenant(root, "own").await, tenant(root, "other").await];
    let manager = person(root, &own, "tenant_user", &["scaibunker:images:manage"]).await.api;
    let prefix = format!("images/uploads/{own}/");
    let minted = manager.post("/storage/capabilities", &wanted(&prefix)).await;
    assert_eq!(minted.status, 201, "{}", minted.json);
    assert_eq!(minted.data()["prefix"], json!(prefix));
    let holder = root.with_key(minted.data()["token"].as_str().unwrap());
    let object = format!("/storage/{prefix}root.tar");
    assert_eq!(holder.call(Method::PUT, &object, &[], "a tar").await.status, 201);
    let read = holder.raw(Method::GET, &object, &[], "").await;
    assert_eq!((read.status().as_u16(), read.body().as_ref()), (200, b"a tar".as_slice()));
    assert_eq!(holder.get("/bunkers").await.error(), (401, "UNAUTHORIZED"));

    for prefix in ["images/", "images/uploads/", &format!("images/uploads/{other}/"), "files/"] {
        let refused = manager.post("/storage/capabilities", &wanted(prefix)).await;
        assert_eq!(refused.error(), (403, "FORBIDDEN"), "{prefix}");
        assert_eq!(root.post("/storage/capabilities", &wanted(prefix)).await.status, 201);
    }
    let user = person(root, &own, "tenant_user", &["scaibunker:execute"]).await.api;
    let refused = user.post("/storage/capabilities", &wanted(&prefix)).await;
    assert_eq!(refused.error(), (403, "FORBIDDEN"));
    // A token for outputs goes to the proxy, not to the route for API keys.
    let outputs = root.post("/storage/capabilities", &wanted("output/")).await;
    let holder = root.with_key(outputs.data()["token"].as_str().unwrap());
    let output = "/storage/output/bnk_01932d7e8a1f7c3e9b5d4f6a7c/log";
    assert_eq!(holder.call(Method::PUT, output, &[], "x").await.status, 201);
    assert_eq!(holder.raw(Method::GET, output, &[], "").await.status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn a_capability_that_cannot_be_minted_names_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    for (field, value) in [
        ("prefix", json!("images/../files/")),
        ("prefix", json!("")),
        ("prefix", json!("other/x")),
        ("methods", json!([])),
        ("methods", json!(["PUT", "PUT"])),
        ("methods", json!(["DELETE"])),
        ("ttl_s", json!(0)),
        ("ttl_s", json!(604_801)),
        ("ttl_s", json!(-1)),
    ] {
        let mut body = wanted("images/");
        body[field] = value;
        let refused = server.api.post("/storage/capabilities", &body).await;
        assert_eq!(refused.error(), (422, "VALIDATION_ERROR"), "{body}");
        assert!(refused.fields()[0].starts_with(field), "{body}: {:?}", refused.fields());
    }
    server.stop().await;
}

#[tokio::test]
async fn minting_is_audited_whether_it_is_granted_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let root = &server.api;
    let own = tenant(root, "own").await;
    let manager = person(root, &own, "tenant_user", &["scaibunker:images:manage"]).await.api;
    let minted =
        manager.post("/storage/capabilities", &wanted(&format!("images/uploads/{own}"))).await;
    assert_eq!(manager.post("/storage/capabilities", &wanted("images/")).await.status, 403);
    let log = root.get("//v1/audit-log?action=mint_capability").await;
    let statuses: Vec<_> =
        log.data().as_array().unwrap().iter().map(|entry| &entry["status"]).collect();
    assert_eq!(statuses, [403, 201]);
    assert!(!log.json.to_string().contains(minted.data()["token"].as_str().unwrap()));
    server.stop().await;
}

/// The manual's section "Storage proxy 401s", behind the controller's address; the proxy alone has
/// the same tests of its own.
#[tokio::test]
async fn storage_proxy_401s() {
    let dir = tempfile::tempdir().unwrap();
    let start = |secret: &str| ControllerConfig {
        capability_secret: Some(secret.to_owned()),
        ..config(dir.path())
    };
    let server = Server::start_with(start("first")).await;
    let minted = server.api.post("/storage/capabilities", &wanted("images/")).await;
    let token = minted.data()["token"].as_str().unwrap().to_owned();
    let message = async |server: &Server, token: &str, path: &str| {
        let refused = server.api.with_key(token).get(path).await;
        assert_eq!(refused.error(), (401, "UNAUTHORIZED"));
        refused.json["error"]["message"].as_str().unwrap().to_owned()
    };
    let said = message(&server, "another", "/storage/images/a").await;
    assert!(said.contains("SCAIBUNKER_WORKER_TOKEN must be the same string"), "{said}");
    let said = message(&server, &token, "/storage/files/a").await;
    assert!(said.contains("capability token check failed"), "{said}");
    assert_eq!(server.api.with_key(&token).get("/storage/images/a").await.status, 404);
    server.stop().await;

    let server = Server::start_with(start("second")).await;
    let said = message(&server, &token, "/storage/images/a").await;
    let both = "scaibunker_capability_secret must be set on the proxy as well as the controller";
    assert!(said.contains("capability token check failed") && said.contains(both), "{said}");
    server.stop().await;

    let capability_secret_previous = Some("first".to_owned());
    let rotated = ControllerConfig { capability_secret_previous, ..start("second") };
    let server = Server::start_with(rotated).await;
    assert_eq!(server.api.with_key(&token).get("/storage/images/a").await.status, 404);
    server.stop().await;
}

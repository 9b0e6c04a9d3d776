//! Refusals: each in the envelope, with its code, status and field.

use bytes::Bytes;
use http::Method;
use scaibunker_api::{error::ErrorCode, ids::BunkerId};
use serde_json::json;

use crate::{
    client::Api,
    server::{Server, config},
};

#[tokio::test]
async fn creates_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let cases = [
        (json!({ "image": "busybox", "memory_mb": 0 }), 422, "VALIDATION_ERROR", "memory_mb"),
        (json!({ "image": "busybox", "memory_mb": 4096 }), 422, "VALIDATION_ERROR", "memory_mb"),
        (
            json!({ "image": "busybox", "cpu_millicores": 0 }),
            422,
            "VALIDATION_ERROR",
            "cpu_millicores",
        ),
        (json!({ "image": "busybox", "disk_mb": 0 }), 422, "VALIDATION_ERROR", "disk_mb"),
        (json!({ "image": "busybox", "memroy_mb": 256 }), 422, "VALIDATION_ERROR", "memroy_mb"),
        (json!({ "image": "busybox", "memory_mb": "x" }), 422, "VALIDATION_ERROR", "memory_mb"),
        (
            json!({ "image": "busybox", "env_vars": {"A=B": ""} }),
            422,
            "VALIDATION_ERROR",
            "env_vars",
        ),
        (
            json!({ "image": "busybox", "snapshot_id": "snp_1" }),
            422,
            "VALIDATION_ERROR",
            "snapshot_id",
        ),
        (json!({}), 422, "VALIDATION_ERROR", "image"),
        (json!({ "image": "busybox", "gpu_count": 1 }), 503, "WORKER_UNAVAILABLE", "gpu_count"),
        (
            json!({ "image": "busybox", "network_profile": "nowhere" }),
            422,
            "VALIDATION_ERROR",
            "network_profile",
        ),
        (
            json!({ "image": "busybox", "network_profile": "allowlisted", "network_allowlist": ["1.1.1.1"] }),
            422,
            "ALLOWLIST_INVALID",
            "network_allowlist[0]",
        ),
    ];
    for (body, status, code, field) in cases {
        let answer = server.api.post("/bunkers", &body).await;
        assert_eq!(answer.error(), (status, code), "{body}");
        assert_eq!(answer.fields(), [field], "{body}");
    }
    let cases = [
        (json!({ "image": "nothing" }), 404, "IMAGE_NOT_FOUND"),
        (json!({ "image": "busybox@sha256:other" }), 404, "IMAGE_NOT_FOUND"),
        // This worker gives bunkers other networks, but not that one.
        (
            json!({ "image": "busybox", "network_profile": "unrestricted" }),
            503,
            "NO_SUITABLE_WORKER",
        ),
        (
            json!({ "image": "busybox", "network_profile": "transit" }),
            422,
            "TRANSIT_MISSING_INTERFACES",
        ),
        (json!({ "image": "busybox", "interfaces": [] }), 422, "INTERFACES_NOT_ALLOWED"),
    ];
    for (body, status, code) in cases {
        let answer = server.api.post("/bunkers", &body).await;
        assert_eq!(answer.error(), (status, code), "{body}");
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let api = &server.api;
    assert_eq!(api.get("/nowhere").await.error(), (404, "NOT_FOUND"));
    assert_eq!(api.get("//").await.error(), (404, "NOT_FOUND"));
    let wrong = api.call(Method::PUT, "/bunkers", &[], "").await;
    assert_eq!(wrong.error(), (405, "METHOD_NOT_ALLOWED"));
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    let text = api.call(Method::POST, "/bunkers", &[], "image=busybox").await;
    assert_eq!(text.error(), (400, "BAD_REQUEST"));
    let large = Bytes::from(vec![b' '; 2 * 1024 * 1024 + 1]);
    let large = api.call(Method::POST, "/bunkers", &[], large).await;
    assert_eq!(large.error(), (413, "PAYLOAD_TOO_LARGE"));
    for (path, field) in [
        ("/bunkers?limit=0", "limit"),
        ("/bunkers?limit=many", "limit"),
        ("/bunkers?cursor=x", "cursor"),
        ("/bunkers?stauts=running", "stauts"),
        ("/bunkers?status=runing", "status"),
        ("/bunkers?lifecycle=x", "lifecycle"),
        ("/images?x=1", "x"),
    ] {
        let answer = api.get(path).await;
        assert_eq!(
            (answer.error(), answer.fields()),
            ((422, "VALIDATION_ERROR"), vec![field]),
            "{path}"
        );
    }
    for path in ["/bunkers?wait=maybe", "/bunkers?wait=true&wait_timeout_s=0"] {
        let answer = api.post(path, &json!({ "image": "busybox" })).await;
        assert_eq!(answer.error(), (422, "VALIDATION_ERROR"), "{path}");
    }
    let missing = format!("/bunkers/{}", BunkerId::generate());
    for path in [missing.as_str(), "/bunkers/x", "/bunkers/bnk_"] {
        assert_eq!(api.get(path).await.error(), (404, "NOT_FOUND"));
        assert_eq!(api.delete(path).await.error(), (404, "NOT_FOUND"));
    }
    let snapshot = api.delete(&format!("{missing}?snapshot=true")).await;
    assert_eq!(snapshot.error(), (404, "NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn only_known_callers_are_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let beat = format!("/workers/{}/heartbeat", worker.id());
    let link = format!("/workers/{}/link", worker.id());
    for key in ["", "sgk_wrong", crate::server::WORKER_TOKEN] {
        let stranger = server.api.with_key(key);
        for path in ["/bunkers", "/images", "/workers", "/bunkers/x"] {
            assert_eq!(stranger.get(path).await.error(), (401, "UNAUTHORIZED"), "{path}");
        }
        let large = Bytes::from(vec![b' '; 3 * 1024 * 1024]);
        let refused = stranger.call(Method::POST, "/bunkers", &[], large).await;
        assert_eq!(refused.error(), (401, "UNAUTHORIZED"), "before the body is read");
        assert_eq!(stranger.get("//health").await.status, 200);
    }
    let user: &Api = &server.api;
    assert_eq!(user.post("/workers/register", &json!({})).await.error(), (401, "UNAUTHORIZED"));
    assert_eq!(user.post(&beat, &json!({})).await.error(), (401, "UNAUTHORIZED"));
    assert_eq!(user.get(&link).await.error(), (401, "UNAUTHORIZED"));

    let worker = user.with_key(crate::server::WORKER_TOKEN);
    assert_eq!(worker.get(&link).await.error(), (400, "BAD_REQUEST"), "no upgrade");
    let unknown = format!("/workers/{}/heartbeat", scaibunker_api::ids::WorkerId::generate());
    let beat = json!({ "images": [], "bunkers": [] });
    assert_eq!(worker.post(&unknown, &beat).await.error(), (404, "NOT_FOUND"));
    let old = json!({
        "worker_id": null, "name": "w", "version": "0", "protocol_version": 99, "engine": "e",
        "capacity": { "cpu_millicores": 1, "memory_mb": 1, "disk_mb": 1 }, "images": [],
    });
    let refused = worker.post("/workers/register", &old).await;
    assert_eq!(refused.error(), (409, "PROTOCOL_MISMATCH"));
    server.stop().await;
}

#[tokio::test]
async fn one_data_directory_has_one_controller() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let second = scaibunker_controller::Controller::open(config(dir.path())).await;
    let Err(error) = second else { panic!("two controllers on one directory") };
    assert!(error.to_string().contains("another process uses"));
    server.stop().await;
    Server::start(dir.path()).await.stop().await;
}

#[test]
fn every_code_has_a_status_of_its_kind() {
    for code in ErrorCode::ALL {
        assert!(code.http_status().is_client_error() || code.http_status().is_server_error());
        assert!(code.as_str().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'));
    }
}

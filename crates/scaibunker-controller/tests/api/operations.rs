//! What operators look at: health, metrics, documentation.

use http::Method;
use serde_json::json;

use crate::{client::eventually, server::Server, state};

#[tokio::test]
async fn health_in_detail_names_what_the_process_depends_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    assert_eq!(server.api.get("//health").await.data(), &json!({ "health": "alive" }));
    let ran = eventually(async || {
        let health = server.api.get("//health/detailed").await.data().clone();
        health["tasks"]["reaper"]["last_run"].is_string()
    });
    assert!(ran.await);
    let health = server.api.get("//health/detailed").await.data().clone();
    let kinds =
        if state::is_on_servers() { ["postgres", "redis"] } else { ["sqlite", "in_process"] };
    assert_eq!([&health["database"]["kind"], &health["ledger"]["kind"]], kinds);
    assert_eq!(health["database"]["is_ok"], true);
    assert_eq!(health["ledger"]["is_ok"], true);
    let workers = json!({ "online": 1, "offline": 0, "draining": 0, "drained": 0 });
    assert_eq!(health["workers"], workers);
    assert_eq!(health["linked_workers"], 1);
    assert_eq!(health["tasks"]["reaper"]["last_error"], json!(null));
    assert_eq!(health["is_draining"], false);
    server.stop().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let id = server.api.running_bunker().await;
    let exec = format!("/bunkers/{id}/exec");
    server.api.post(&exec, &json!({ "command": ["echo"] })).await.data();
    let answer = server.api.with_key("").raw(Method::GET, "//metrics", &[], "").await;
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
    for line in [
        "scaibunker_http_requests_total{operation=\"create_bunker\",status=\"201\"} 1",
        "scaibunker_bunkers_active{status=\"running\"} 1",
        "scaibunker_bunkers_active{status=\"paused\"} 0",
        "scaibunker_workers{status=\"online\"} 1",
        "scaibunker_exec_total 1",
        "scaibunker_placement_duration_seconds_count 1",
        "scaibunker_audit_failures_total 0",
        "scaibunker_quota_drift_total 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
    }
    for secret in [id.as_str(), "usr_", "ten_"] {
        assert!(!text.contains(secret), "{secret}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_documentation_needs_nothing_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let anonymous = server.api.with_key("");
    for (path, kind) in [
        ("//docs", "text/html"),
        ("//docs/docs.js", "text/javascript"),
        ("//docs/docs.css", "text/css"),
    ] {
        let answer = anonymous.raw(Method::GET, path, &[], "").await;
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with(kind));
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
        let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
        for outside in ["http://", "https://", "innerHTML", " style=", "onclick"] {
            assert!(!text.contains(outside), "{outside} in {path}");
        }
    }
    let document = anonymous.raw(Method::GET, "//openapi.json", &[], "").await;
    assert_eq!(document.status(), 200);
    let document: serde_json::Value = serde_json::from_slice(document.body()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    server.stop().await;
}

//! Rate limits: of callers, and of who is no caller.

use scaibunker_controller::{ControllerConfig, RateLimits};
use serde_json::Value;

use crate::server::{Server, config};

#[tokio::test]
async fn a_caller_over_its_limit_is_told_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let rate_limits = RateLimits { user: Some(3), tenant: Some(5), ..RateLimits::OFF };
    let server = Server::start_with(ControllerConfig { rate_limits, ..config(dir.path()) }).await;
    for left in ["2", "1", "0"] {
        let answer = server.api.get("/bunkers").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["x-scaigrid-ratelimit-limit"], "3");
        assert_eq!(answer.headers["x-scaigrid-ratelimit-remaining"], left);
        let reset = answer.headers["x-scaigrid-ratelimit-reset"].to_str().unwrap();
        assert!(reset.parse::<i64>().unwrap() > 1_700_000_000);
    }
    let refused = server.api.get("/bunkers").await;
    assert_eq!(refused.error(), (429, "RATE_LIMITED"));
    let wait = refused.json["error"]["retry_after"].as_u64().unwrap();
    // Counted by the minute: with so small a limit half of the next one has to pass, too.
    assert!((1..=121).contains(&wait), "{wait}");
    assert_eq!(refused.headers["retry-after"], wait.to_string().as_str());
    assert_eq!(refused.headers["x-scaigrid-ratelimit-remaining"], "0");
    let health = server.api.get("//health").await;
    assert_eq!(health.status, 200, "nobody is known there, so nobody is limited");
    assert!(!health.headers.contains_key("x-scaigrid-ratelimit-limit"));
    server.stop().await;
}

#[tokio::test]
async fn strangers_are_slowed_down_and_do_not_fill_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let rate_limits = RateLimits { strangers: Some(2), ..RateLimits::OFF };
    let server = Server::start_with(ControllerConfig { rate_limits, ..config(dir.path()) }).await;
    let stranger = server.api.with_key("sgk_wrong");
    for _ in 0..2 {
        assert_eq!(stranger.delete("/bunkers/x").await.error(), (401, "UNAUTHORIZED"));
    }
    for _ in 0..3 {
        assert_eq!(stranger.delete("/bunkers/x").await.error(), (429, "RATE_LIMITED"));
    }
    let log = server.api.get("//v1/audit-log").await;
    let entries = log.data().as_array().unwrap();
    assert_eq!(entries.len(), 2, "{}", log.json);
    assert!(entries.iter().all(|entry| entry["actor_id"] == Value::Null));
    server.stop().await;
}

#[tokio::test]
async fn who_calls_on_past_its_limit_does_not_fill_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let rate_limits = RateLimits { user: Some(1), ..RateLimits::OFF };
    let server = Server::start_with(ControllerConfig { rate_limits, ..config(dir.path()) }).await;
    for _ in 0..80 {
        server.api.delete("/bunkers/x").await.error();
    }
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let log = server.api.get("//v1/audit-log?limit=200").await;
    assert_eq!(log.data().as_array().unwrap().len(), 61);
    server.stop().await;
}

//! How bunkers live: idle ones end, busy ones do not, and whoever follows one sees why.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::server::{Server, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_bunker_ends_and_a_working_one_does_not() {
    let server = Server::start();
    let make = async || {
        let body = json!({ "image": "busybox", "disk_mb": 64, "idle_timeout_s": 6 });
        let made = server.call(Method::POST, "/bunkers?wait=true", Some(body)).await;
        made.data()["id"].as_str().unwrap().to_owned()
    };
    let (idle, silent, busy) = (make().await, make().await, make().await);
    // A command that prints nothing is work, and so is what a command left behind.
    let body = json!({ "command": "sleep 600", "detach": true, "timeout_s": 900 });
    server.exec(&silent, body).await.data();
    server.sh(&busy, "setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &").await;

    let ended = async |id: &str| server.status(id).await["status"] == "terminated";
    eventually("the idle bunker ends", async || ended(&idle).await).await;
    let reason = server.status(&idle).await["status_reason"].clone();
    assert!(reason.as_str().unwrap().contains("idle_timeout_s of 6 s"), "{reason}");

    // The others had the same limit and as much time; looking at them is no work.
    tokio::time::sleep(Duration::from_secs(8)).await;
    for id in [&silent, &busy] {
        assert_eq!(server.status(id).await["status"], "running");
    }
    // Without a limit, the one that would be next goes on.
    let limit = json!({ "idle_timeout_s": 3600 });
    let patched = server.call(Method::PATCH, &format!("/bunkers/{silent}"), Some(limit)).await;
    assert_eq!(patched.data()["idle_timeout_s"], 3600);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_a_life_to_its_end() {
    let server = Server::start();
    let id = server.bunker().await;
    let address = server.address(&format!("/bunkers/{id}/events"));
    let following = std::thread::spawn({
        let mut curl = server.curl();
        move || curl.arg("--no-buffer").arg(address).output().unwrap()
    });
    for step in ["pause", "resume"] {
        server.call(Method::POST, &format!("/bunkers/{id}/{step}"), None).await.data();
    }
    server.delete(&id).await.data();
    let output = tokio::task::spawn_blocking(move || following.join().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.trim_end().lines().last().unwrap();
    assert_eq!(last, "data: [DONE]", "{text}");
    assert!(text.contains(r#""status":"terminated""#), "{text}");
    assert!(text.starts_with("event: status\n"), "{text}");
}

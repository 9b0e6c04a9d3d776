//! Bunkers that go on from a moment of another one, or of their own: forks, snapshots of memory, pauses.

use http::Method;
use serde_json::{Value, json};

use crate::server::{Server, eventually};

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Counts in memory alone, for as long as the process lives.
const COUNT: &str = "setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; \
    usleep 20000; done' >/dev/null 2>&1 & \
    echo $! > /dev/shm/pid; echo here > /dev/shm/file; dd if=/dev/urandom of=/data bs=1M count=4; \
    md5sum /data > /sum";
/// The same process still counts, and files are what they were.
const GOES_ON: &str = "a=$(cat /dev/shm/count); while [ \"$(cat /dev/shm/count)\" = \"$a\" ]; do :; done; \
    md5sum -c /sum && cat /dev/shm/file";

async fn snapshot(server: &Server, id: &str, body: Value) -> Value {
    let path = format!("/bunkers/{id}/snapshot?wait=true");
    let taken = server.call(Method::POST, &path, Some(body)).await.data().clone();
    assert_eq!(taken["status"], "ready", "{taken}");
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_memory_goes_on_as_another_bunker() {
    let server = Server::start();
    let id = server.bunker().await;
    server.sh(&id, COUNT).await;
    eventually("it counts", async || server.sh(&id, "cat /dev/shm/count").await["exit_code"] == 0)
        .await;
    let taken = snapshot(&server, &id, json!({ "kind": "memory", "name": "running" })).await;
    assert_eq!((&taken["kind"], &taken["name"]), (&json!("memory"), &json!("running")));
    assert_eq!(server.sh(&id, GOES_ON).await["stdout"], "/data: OK\nhere\n", "the bunker goes on");
    let machine_id = server.sh(&id, "cat /etc/machine-id; hostname").await["stdout"].clone();
    server.delete(&id).await.data();

    let body = json!({ "snapshot_id": taken["id"] });
    let made = server.call(Method::POST, "/bunkers?wait=true", Some(body.clone())).await;
    let made = made.data().clone();
    assert_eq!(made["status"], "running", "{made}");
    let copy = text(&made["id"]);
    assert_eq!(server.sh(copy, GOES_ON).await["stdout"], "/data: OK\nhere\n");
    assert_ne!(server.sh(copy, "cat /etc/machine-id; hostname").await["stdout"], machine_id);

    // Again it adds what has changed alone, and it can be read back whole.
    let second = snapshot(&server, copy, json!({ "kind": "memory" })).await;
    let stored = |snapshot: &Value| snapshot["stored_bytes"].as_u64().unwrap();
    assert!(stored(&second) < stored(&taken), "{second} {taken}");
    let path = format!("/snapshots/{}/verify", text(&second["id"]));
    let check = server.call(Method::POST, &path, None).await.data().clone();
    assert_eq!(check["damage"], json!([]), "{check}");

    // Its sizes are part of it.
    for (field, value) in [("memory_mb", json!(512)), ("network_profile", json!("registry"))] {
        let mut other = body.clone();
        other[field] = value;
        let refused = server.call(Method::POST, "/bunkers", Some(other)).await;
        assert_eq!(refused.error(), (422, "VALIDATION_ERROR"), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_fork_are_each_unlike_all_others() {
    let server = Server::start();
    let id = server.bunker().await;
    server.sh(&id, COUNT).await;
    eventually("it counts", async || server.sh(&id, "cat /dev/shm/count").await["exit_code"] == 0)
        .await;
    let path = format!("/bunkers/{id}/fork?wait=true");
    let forked = server.call(Method::POST, &path, Some(json!({ "count": 3 }))).await.data().clone();
    let mut seen = std::collections::BTreeSet::new();
    for child in forked.as_array().unwrap() {
        assert_eq!((&child["status"], text(&child["parent_id"])), (&json!("running"), id.as_str()));
        let child = text(&child["id"]);
        assert_eq!(server.sh(child, GOES_ON).await["stdout"], "/data: OK\nhere\n");
        let drawn = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; head -c 32 /dev/urandom | md5sum";
        for line in text(&server.sh(child, drawn).await["stdout"]).lines() {
            assert!(seen.insert(line.to_owned()), "{line} is in two of them");
        }
        let late = "date +%s";
        let now: i64 = text(&server.sh(child, late).await["stdout"]).trim().parse().unwrap();
        assert!((jiff::Timestamp::now().as_second() - now).abs() <= 1);
    }
    assert_eq!(server.sh(&id, GOES_ON).await["stdout"], "/data: OK\nhere\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_bunker_is_written_out_and_goes_on_where_it_was() {
    let server = Server::start();
    let body = json!({ "image": "busybox", "memory_mb": 256, "pause_evict_after_s": 1 });
    let made = server.call(Method::POST, "/bunkers?wait=true", Some(body)).await.data().clone();
    let id = text(&made["id"]).to_owned();
    server.sh(&id, COUNT).await;
    let detached = json!({ "command": "echo kept", "detach": true });
    let exec = server.exec(&id, detached).await.data()["exec_id"].clone();
    eventually("it counts", async || server.sh(&id, "cat /dev/shm/count").await["exit_code"] == 0)
        .await;
    let identity =
        "cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; cat /dev/shm/pid";
    let before = server.sh(&id, identity).await["stdout"].clone();
    let drawn = server.sh(&id, "cat /proc/sys/kernel/random/uuid").await["stdout"].clone();
    for round in 0..2 {
        server.call(Method::POST, &format!("/bunkers/{id}/pause"), None).await.data();
        eventually("it is written out", async || server.status(&id).await["evicted"] == true).await;
        eventually("its worker is free", async || {
            let workers = server.call(Method::GET, "/workers", None).await;
            workers.data()[0]["allocated"]["memory_mb"] == 0
        })
        .await;
        let resumed = server.call(Method::POST, &format!("/bunkers/{id}/resume"), None).await;
        assert_eq!(resumed.data()["status"], "running", "round {round}");
        assert_eq!(server.sh(&id, GOES_ON).await["stdout"], "/data: OK\nhere\n");
        assert_eq!(server.sh(&id, identity).await["stdout"], before, "it is the same bunker");
        assert_ne!(server.sh(&id, "cat /proc/sys/kernel/random/uuid").await["stdout"], drawn);
        let now = server.sh(&id, "date +%s").await["stdout"].clone();
        let late = jiff::Timestamp::now().as_second() - text(&now).trim().parse::<i64>().unwrap();
        assert!((0..=1).contains(&late), "{late} s late");
        // What it remembers of commands came with it.
        let path = format!("/bunkers/{id}/execs/{}", text(&exec));
        let kept = server.call(Method::GET, &path, None).await.data().clone();
        assert_eq!(kept["outcome"]["exit_code"], 0, "{kept}");
    }
}

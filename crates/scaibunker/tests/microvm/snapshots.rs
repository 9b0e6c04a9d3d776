//! Snapshots of disks: nothing of one is lost, and nothing that is damaged is taken for it.

use std::{fs, path::PathBuf};

use http::Method;
use serde_json::{Value, json};

use crate::server::{Answer, Server, eventually};

/// Files of every kind, some of which have just been written.
const WRITE: &str = "mkdir -p /data/deep && cd /data && head -c 3000000 /dev/urandom > blob && \
    echo small > deep/file && chmod 640 deep/file && chown 12:34 deep/file && ln -s deep link && \
    ln blob hard && rm /bin/vi && mv /etc/group /etc/group.kept && sync blob && md5sum blob > sum";
const CHECK: &str = "cd /data && md5sum -c sum; \
    stat -c '%a %u:%g %h' deep/file blob; readlink link; ls /bin/vi /etc/group 2>&1; cat deep/file";

async fn take(server: &Server, id: &str, body: Value) -> Answer {
    server.call(Method::POST, &format!("/bunkers/{id}/snapshot?wait=true"), Some(body)).await
}

async fn ready(server: &Server, id: &str, body: Value) -> Value {
    let taken = take(server, id, body).await.data().clone();
    assert_eq!(taken["status"], "ready", "{taken}");
    taken
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn restored(server: &Server, snapshot: &Value) -> Answer {
    let body = json!({ "snapshot_id": snapshot["id"], "memory_mb": 256 });
    server.call(Method::POST, "/bunkers?wait=true", Some(body)).await
}

/// What is stored of snapshots, manifests and packs.
fn objects(server: &Server) -> Vec<PathBuf> {
    let dir = server.data_dir().join("objects/scaibunker/snapshots");
    let tenants = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = tenants.flat_map(|tenant| fs::read_dir(tenant.path()).unwrap().flatten());
    let mut files: Vec<_> = files.map(|file| file.path()).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bunker_starts_with_every_byte_of_a_snapshot_and_no_later_one() {
    let server = Server::start();
    let id = server.bunker().await;
    assert_eq!(server.sh(&id, WRITE).await["exit_code"], 0);
    let expected = server.sh(&id, CHECK).await["stdout"].clone();
    let first = ready(&server, &id, json!({ "name": "first" })).await;
    assert!(first["size_bytes"].as_u64() >= Some(3_000_000), "{first}");
    assert_eq!(server.sh(&id, "echo later > /data/later; rm /data/blob").await["exit_code"], 0);

    let made = restored(&server, &first).await.data().clone();
    assert_eq!((&made["status"], &made["snapshot_id"]), (&json!("running"), &first["id"]));
    assert_eq!((&made["image"], &made["disk_mb"]), (&json!("busybox"), &json!(64)));
    let copy = text(&made["id"]).to_owned();
    assert_eq!(server.sh(&copy, CHECK).await["stdout"], expected);
    assert_eq!(server.sh(&copy, "ls /data/later").await["exit_code"], 1);
    let id_of =
        async |bunker: &str| server.sh(bunker, "cat /etc/machine-id").await["stdout"].clone();
    assert_ne!(id_of(&copy).await, id_of(&id).await);

    // One of a bunker that began as a snapshot adds what is new alone.
    assert_eq!(server.sh(&copy, "echo more > /data/more").await["exit_code"], 0);
    let second = ready(&server, &copy, json!({})).await;
    let stored = |snapshot: &Value| snapshot["stored_bytes"].as_u64().unwrap();
    assert!(stored(&second) * 4 < stored(&first), "{first} {second}");
    server.delete(&id).await.data();
    server.delete(&copy).await.data();
    // It does not need the one that it began as.
    let path = format!("/snapshots/{}", text(&first["id"]));
    assert_eq!(server.call(Method::DELETE, &path, None).await.status, 204);
    assert_eq!(server.call(Method::GET, &path, None).await.error(), (404, "NOT_FOUND"));
    let copy = restored(&server, &second).await.data()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.sh(&copy, CHECK).await["stdout"], expected);
    assert_eq!(server.sh(&copy, "cat /data/more").await["stdout"], "more\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_and_a_paused_bunker_are_kept_and_go_on() {
    let server = Server::start();
    let id = server.bunker().await;
    // Each line is on the disk before the next one is begun.
    let line = "i=0; while [ -e /go ]; do i=$((i+1)); echo $i >> /log; sync /log; echo $i > /next; mv /next /told; done";
    server.sh(&id, "touch /go").await;
    let body = json!({ "command": line, "user": "root", "detach": true, "timeout_s": 600 });
    server.exec(&id, body).await.data();
    eventually("it writes", async || server.sh(&id, "cat /told").await["exit_code"] == 0).await;
    let told = server.sh(&id, "cat /told").await["stdout"].clone();
    let busy = ready(&server, &id, json!({})).await;
    assert_eq!(server.sh(&id, "rm /go; echo on").await["stdout"], "on\n");
    let copy = restored(&server, &busy).await.data()["id"].as_str().unwrap().to_owned();
    let kept = server.sh(&copy, "tail -n 1 /log; wc -l < /log; sort -n /log | uniq | wc -l").await;
    let numbers: Vec<u64> =
        text(&kept["stdout"]).lines().map(|line| line.trim().parse().unwrap()).collect();
    assert!(numbers[0] >= text(&told).trim().parse().unwrap(), "{told} {kept}");
    assert!(numbers.iter().all(|number| *number == numbers[0]), "no line is missing: {kept}");

    // What a paused one had not written out yet is kept as well.
    server.sh(&id, "echo unwritten > /unwritten").await;
    server.call(Method::POST, &format!("/bunkers/{id}/pause"), None).await.data();
    let paused = ready(&server, &id, json!({})).await;
    assert_eq!(server.status(&id).await["status"], "paused");
    server.call(Method::POST, &format!("/bunkers/{id}/resume"), None).await.data();
    assert_eq!(
        server.sh(&id, "cat /unwritten; echo > /x && echo on").await["stdout"],
        "unwritten\non\n"
    );
    let copy = restored(&server, &paused).await.data()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.sh(&copy, "cat /unwritten").await["stdout"], "unwritten\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_object_is_noticed_and_no_bunker_starts_from_it() {
    let server = Server::start_with(&[("SCAIBUNKER_SNAPSHOT_SECRET", "a secret of the test")]);
    let id = server.bunker().await;
    server.sh(&id, "echo a-word-to-look-for > /data.txt").await;
    let snapshot = ready(&server, &id, json!({})).await;
    server.delete(&id).await.data();
    let verify = format!("/snapshots/{}/verify", text(&snapshot["id"]));
    let damage = async || {
        let check = server.call(Method::POST, &verify, None).await;
        check.data()["damage"].as_array().unwrap().clone()
    };
    assert!(damage().await.is_empty());
    for path in objects(&server) {
        let whole = fs::read(&path).unwrap();
        assert!(!whole.windows(16).any(|bytes| bytes == b"a-word-to-look-f"), "it is sealed");
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(!damage().await.is_empty(), "{} at {at}", path.display());
        }
        let refused = restored(&server, &snapshot).await;
        let reason = refused.data()["status_reason"].as_str().unwrap_or_default();
        assert_eq!(refused.data()["status"], "failed");
        assert!(reason.contains("damaged"), "{reason}");
        fs::write(&path, whole).unwrap();
    }
    assert!(damage().await.is_empty());
    let copy = restored(&server, &snapshot).await.data()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.sh(&copy, "cat /data.txt").await["stdout"], "a-word-to-look-for\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_snapshot_of_a_bunker_expires_by_itself() {
    let server = Server::start();
    let id = server.bunker().await;
    server.sh(&id, "echo kept > /kept").await;
    let path = format!("/bunkers/{id}?snapshot=true");
    let ended = server.call(Method::DELETE, &path, None).await;
    assert!(["terminating", "terminated"].contains(&text(&ended.data()["status"])));
    // Again is no error, and takes no other.
    server.call(Method::DELETE, &path, None).await.data();
    let listed = server.call(Method::GET, "/snapshots", None).await.data().clone();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let (created, expires): (jiff::Timestamp, jiff::Timestamp) = (
        text(&listed[0]["created_at"]).parse().unwrap(),
        text(&listed[0]["expires_at"]).parse().unwrap(),
    );
    let kept = expires.duration_since(created).as_secs();
    assert!((7 * 86_400 - 60..=7 * 86_400).contains(&kept), "{kept}");
    let copy = restored(&server, &listed[0]).await.data()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.sh(&copy, "cat /kept").await["stdout"], "kept\n");

    assert_eq!(take(&server, &id, json!({})).await.error(), (409, "BUNKER_NOT_RUNNING"));
    let body = json!({ "snapshot_id": listed[0]["id"], "disk_mb": 128 });
    let refused = server.call(Method::POST, "/bunkers", Some(body)).await;
    assert_eq!(refused.error(), (422, "VALIDATION_ERROR"));
}

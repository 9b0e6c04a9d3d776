//! A controller that is killed in the middle of things: quota, rows and VMs agree afterwards.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use http::Method;
use serde_json::json;

use crate::{
    caller::Caller,
    server::{Server, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_50_creates_leaves_quota_rows_and_vms_in_agreement() {
    let server = Server::start();
    let bodies = (0..50).map(|_| json!({ "image": "busybox", "disk_mb": 64, "memory_mb": 256 }));
    let url = server.address("/bunkers");
    let key = server.key();
    let creates = bodies.map(|body| {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["--silent", "--max-time", "60", "--request", "POST", "--header"])
            .arg(format!("Authorization: Bearer {key}"))
            .args(["--data", &body.to_string()])
            .arg(&url);
        async move { curl.output().await.unwrap().stdout }
    });
    let creates = tokio::spawn(join_all(creates.collect::<Vec<_>>()));
    // In the middle: some run, most do not.
    eventually("some bunkers run", async || {
        let running = server.call(Method::GET, "/bunkers?status=running", None).await;
        running.data().as_array().unwrap().len() >= 3
    })
    .await;
    let server = server.crash_and_restart(|| {});
    let answered: BTreeSet<String> = creates
        .await
        .unwrap()
        .into_iter()
        .filter_map(|body| serde_json::from_slice::<serde_json::Value>(&body).ok())
        .filter_map(|answer| answer["data"]["id"].as_str().map(str::to_owned))
        .collect();

    let admin = Caller::admin(&server);
    let me = admin.call(Method::GET, "//v1/iam/me", None).await;
    let bucket = format!("user:{}", me.data()["user"]["id"].as_str().unwrap());
    eventually("no bunker is on its way", async || {
        let path = "/bunkers?limit=200&status=pending,provisioning,terminating";
        admin.call(Method::GET, path, None).await.data().as_array().unwrap().is_empty()
    })
    .await;
    let listed = admin.call(Method::GET, "/bunkers?limit=200", None).await;
    let rows = listed.data().as_array().unwrap();
    let known: BTreeSet<_> =
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert!(known.is_superset(&answered), "an acknowledged create is on record");
    assert!(rows.iter().all(|row| row["status"] != "failed" || row["status_reason"].is_string()));
    let running: Vec<_> = rows.iter().filter(|row| row["status"] == "running").collect();
    assert!(!running.is_empty());

    let used = async |resource: &str| admin.usage(&bucket, resource).await["current"].clone();
    assert_eq!(used("concurrent_bunkers").await, running.len());
    assert_eq!(used("memory_mb").await, running.len() * 256);
    for row in &running {
        let id = row["id"].as_str().unwrap();
        assert!(server.vmm_pid(id) > 0);
        eventually("it answers", async || {
            server.exec(id, json!({ "command": "true" })).await.status.is_success()
        })
        .await;
    }
    let owned = server.vm_dirs().into_iter().filter(|dir| {
        let record = std::fs::read(dir.join("record.json")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
        record["claim"]["bunker_id"].is_string()
    });
    assert_eq!(owned.count(), running.len());
    let metrics = server.curl().arg(format!("{}/metrics", server.url)).output().unwrap();
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    let drift = metrics.lines().find(|line| line.starts_with("scaibunker_quota_drift_total"));
    assert_eq!(drift.and_then(|line| line.split(' ').next_back()), Some("0"), "{metrics}");
}

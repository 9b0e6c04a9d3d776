//! The manual's sections on bunkers that do not start and on workers that are offline, followed to
//! the letter.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    api::{Api, within},
    cluster::{Cluster, small},
    daemon::{Daemon, Signal},
};

async fn worker_status(api: &Api, id: &str) -> Value {
    api.get(&format!("/workers/{id}")).await.data()["status"].clone()
}

async fn bunker(api: &Api, id: &str) -> Value {
    api.get(&format!("/bunkers/{id}")).await.data().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn bunker_stays_in_pending_or_provisioning() {
    let cluster = Cluster::start(1, 1);
    let api = cluster.api(0);
    let worker = cluster.worker_records(0).await.remove(0);
    let id = worker["id"].as_str().unwrap();

    // "WORKER_UNAVAILABLE on create. No worker has enough free CPU / memory / disk / GPU. Either
    // reduce the request, wait for other bunkers to terminate, or add a worker."
    let most = worker["capacity"]["disk_mb"].as_u64().unwrap() / 2 + 1;
    let large = json!({ "image": "busybox", "memory_mb": 256, "disk_mb": most });
    let first = api.post("/bunkers?wait=true", &large).await.data().clone();
    assert_eq!(first["status"], "running", "{first}");
    let refused = api.post("/bunkers", &large).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "WORKER_UNAVAILABLE"));
    let detail = &refused.json["error"]["details"][0];
    assert_eq!(detail["field"], "disk_mb", "{}", refused.json);
    assert!(detail["message"].as_str().unwrap().contains("largest free amount"), "{detail}");
    api.delete(&format!("/bunkers/{}", first["id"].as_str().unwrap())).await.data();
    let running = api.post("/bunkers?wait=true", &small()).await.data().clone();
    assert_eq!(running["status"], "running");

    // "NO_SUITABLE_WORKER on create. No worker has the image cached ready."
    let source = json!({ "kind": "oci", "ref": "127.0.0.1:1/nowhere:1" });
    api.post("/images", &json!({ "name": "absent", "source": source })).await.data();
    let refused = api.post("/bunkers", &json!({ "image": "absent" })).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "NO_SUITABLE_WORKER"));

    // "Stuck in provisioning for more than a minute. The worker took the assignment but never
    // reported back. Check the worker's status with GET /workers/{id} — if last_heartbeat is stale,
    // the heartbeat monitor will fail the bunker out automatically within ~30 seconds."
    cluster.workers[0].signal(Signal::STOP);
    let stuck = api.post("/bunkers", &small()).await.data()["id"].as_str().unwrap().to_owned();
    within(Duration::from_secs(10), "provisioning", async || {
        bunker(&api, &stuck).await["status"] == "provisioning"
    })
    .await;
    // The start fails as soon as the link is found dead, which is sooner.
    within(Duration::from_secs(30), "the start fails", async || {
        bunker(&api, &stuck).await["status"] == "failed"
    })
    .await;
    let reason = bunker(&api, &stuck).await["status_reason"].clone();
    assert!(reason.as_str().unwrap().contains("link"), "{reason}");
    // What ran there fails with its heartbeats, and its quota is free.
    let other = running["id"].as_str().unwrap();
    within(Duration::from_secs(60), "what ran there fails", async || {
        bunker(&api, other).await["status"] == "failed"
    })
    .await;
    assert_eq!(worker_status(&api, id).await, "offline");
    let reason = bunker(&api, other).await["status_reason"].clone();
    assert!(reason.as_str().unwrap().contains("heartbeats stopped"), "{reason}");
    let usage = api.get("/quota-profiles/usage").await.data().clone();
    let used = &usage[0]["resources"]["concurrent_bunkers"]["current"];
    assert_eq!(used, &json!(0), "{usage}");

    // A worker that returns frees what failed meanwhile, and takes new bunkers.
    cluster.workers[0].signal(Signal::CONT);
    within(Duration::from_secs(30), "the worker is back", async || {
        worker_status(&api, id).await == "online"
    })
    .await;
    within(Duration::from_secs(30), "a new bunker runs", async || {
        let made = api.post("/bunkers?wait=true", &small()).await;
        made.status.is_success() && made.data()["status"] == "running"
    })
    .await;
    for id in [stuck.as_str(), other] {
        within(Duration::from_secs(60), "its VM is gone", async || {
            let records = cluster.vm_dirs(0).into_iter().map(|dir| dir.join("record.json"));
            !records.filter_map(|path| std::fs::read_to_string(path).ok()).any(|r| r.contains(id))
        })
        .await;
        assert_eq!(bunker(&api, id).await["status"], "failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_shows_offline_but_its_host_is_up() {
    let cluster = Cluster::start(2, 1);
    let api = cluster.api(1);
    let id = cluster.worker_records(0).await[0]["id"].as_str().unwrap().to_owned();
    within(Duration::from_secs(30), "both controllers see it", async || {
        let records = cluster.worker_records(1).await;
        records.first().is_some_and(|worker| worker["status"] == "online")
    })
    .await;

    // "The heartbeat is what makes a worker online. Default cadence is 10 seconds;
    // WORKER_STALE_THRESHOLD_MULTIPLIER (default 3) means missing 30 seconds flips it offline."
    let stopped = std::time::Instant::now();
    cluster.workers[0].signal(Signal::STOP);
    within(Duration::from_secs(60), "offline", async || {
        worker_status(&api, &id).await == "offline"
    })
    .await;
    // It had beaten up to ten seconds before it was stopped.
    let silence = stopped.elapsed();
    assert!(silence > Duration::from_secs(19) && silence < Duration::from_secs(45), "{silence:?}");
    cluster.workers[0].signal(Signal::CONT);
    within(Duration::from_secs(30), "online", async || worker_status(&api, &id).await == "online")
        .await;

    // "The auto-detected status is in Redis; if Redis was wiped, the next heartbeat re-populates it."
    cluster.redis.wipe(0);
    within(Duration::from_secs(15), "it is alive in Redis", async || {
        cluster.redis.has(0, "{scaibunker}:alive")
    })
    .await;
    assert_eq!(worker_status(&api, &id).await, "online");
    api.post("/bunkers?wait=true", &small()).await.data();

    // "Check the worker's own logs for heartbeat send failures (wrong SCAIBUNKER_WORKER_TOKEN,
    // controller URL, network reachability)."
    let mut stranger = cluster.another_worker("stranger");
    stranger.set("SCAIBUNKER_WORKER_TOKEN", "another token");
    stranger.start();
    said(&stranger, "SCAIBUNKER_WORKER_TOKEN").await;
    let mut lost = cluster.another_worker("lost");
    lost.replace("--controller", "http://127.0.0.1:1");
    lost.start();
    said(&lost, "cannot reach http://127.0.0.1:1").await;
}

async fn said(daemon: &Daemon, text: &str) {
    within(Duration::from_secs(120), text, async || daemon.has_said(text)).await;
}

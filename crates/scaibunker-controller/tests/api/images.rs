//! Images: registered, baked once, brought to the workers, used, warmed, deleted.

use http::Method;
use scaibunker_api::{
    ids::ImageId,
    worker::{BakeSource, ImageFaultCause, ImageFrom},
};
use scaibunker_controller::ControllerConfig;
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    people::{outcome, person, tenant},
    server::{Server, config},
    sim_worker::{SimWorker, images::digest_of},
};

struct Home {
    server: Server,
    workers: Vec<SimWorker>,
    _dir: tempfile::TempDir,
}

impl Home {
    async fn new(workers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path()).await;
        let mut home = Self { server, workers: Vec::new(), _dir: dir };
        for _ in 0..workers {
            let worker = home.server.worker().await;
            home.workers.push(worker);
        }
        home
    }

    fn api(&self) -> &Api {
        &self.server.api
    }

    async fn add(&self, body: Value) -> String {
        let answer = self.api().post("/images", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.json);
        assert_eq!(answer.data()["status"], "pending");
        answer.data()["id"].as_str().unwrap().to_owned()
    }

    async fn beat(&self) {
        for worker in &self.workers {
            worker.heartbeat(&self.server.base).await;
        }
    }

    async fn image(&self, id: &str) -> Value {
        self.api().get(&format!("/images/{id}")).await.data().clone()
    }

    async fn rows(&self, id: &str) -> Vec<Value> {
        let rows = self.api().get(&format!("/images/{id}/cache")).await.data().clone();
        rows.as_array().unwrap().clone()
    }

    /// Waits, with heartbeats, until the rows' statuses are these in some order.
    async fn until_rows(&self, id: &str, expected: &[&str]) {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let reached = eventually(async || {
            self.beat().await;
            let rows = self.rows(id).await;
            let mut found: Vec<_> =
                rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
            found.sort_unstable();
            found == expected
        });
        assert!(reached.await, "{:?}", self.rows(id).await);
    }

    async fn until_status(&self, id: &str, expected: &str) {
        let reached = eventually(async || {
            self.beat().await;
            self.image(id).await["status"] == expected
        });
        assert!(reached.await, "{}", self.image(id).await);
    }

    async fn warm(&self, id: &str) -> Value {
        self.api().post(&format!("/images/{id}/warm"), &Value::Null).await.data().clone()
    }

    async fn create(&self, image: &str) -> crate::client::Answer {
        self.api().post("/bunkers?wait=true", &json!({ "image": image })).await
    }
}

fn oci() -> Value {
    json!({ "kind": "oci", "ref": "registry.test/app:1" })
}

fn parsed(id: &str) -> ImageId {
    id.parse().unwrap()
}

#[tokio::test]
async fn an_image_is_baked_once_and_brought_to_every_worker() {
    let home = Home::new(3).await;
    let body = json!({ "name": "app", "source": oci(), "entrypoint_env": { "A": "b" } });
    let made = home.api().post("/images", &body).await;
    assert_eq!(made.data()["warm"], json!({ "queued": 3, "ready": 0, "failed": 0, "skipped": 0 }));
    let id = made.data()["id"].as_str().unwrap().to_owned();
    home.until_rows(&id, &["ready"; 3]).await;
    let image = home.image(&id).await;
    assert_eq!(
        (&image["status"], &image["digest"]),
        (&json!("ready"), &json!(digest_of(parsed(&id))))
    );
    assert_eq!(image["config"]["user"], "1000");
    let counts: Vec<_> = home.workers.iter().map(|worker| worker.images.counts()).collect();
    assert_eq!(counts.iter().map(|(bakes, _)| bakes).sum::<usize>(), 1, "{counts:?}");
    assert_eq!(counts.iter().map(|(_, fetches)| fetches).sum::<usize>(), 2, "{counts:?}");
    for name in ["app".to_owned(), id.clone(), format!("app@{}", digest_of(parsed(&id)))] {
        let bunker = home.create(&name).await;
        assert_eq!(bunker.data()["image_id"], id);
        assert_eq!(bunker.data()["status"], "running");
    }
    assert_eq!(home.create("app@sha256:other").await.error(), (404, "IMAGE_NOT_FOUND"));
    // What is there is no work.
    assert_eq!(home.warm(&id).await, json!({ "queued": 0, "ready": 3, "failed": 0, "skipped": 0 }));
    let started = home.workers.iter().flat_map(|w| w.env_vars.lock().unwrap().clone());
    assert!(started.count() == 3);
    let all_have_it = home.workers.iter().flat_map(|w| w.env_vars.lock().unwrap().clone());
    assert!(all_have_it.into_iter().all(|env| env["A"] == "b"));
}

#[tokio::test]
async fn a_fault_of_the_source_fails_the_image_until_it_is_warmed() {
    let home = Home::new(2).await;
    for worker in &home.workers {
        *worker.images.fault.lock().unwrap() = Some(ImageFaultCause::RegistryAuth);
    }
    let auth = json!({ "username": "u", "password": "the-password" });
    let source = json!({ "kind": "oci", "ref": "registry.test/app:1", "registry_auth": auth });
    let id = home.add(json!({ "name": "app", "source": source })).await;
    home.until_status(&id, "failed").await;
    let image = home.image(&id).await;
    assert_eq!(image["status_reason"], "fault: RegistryAuth");
    assert_eq!(image["source"]["has_registry_auth"], true);
    assert!(!image.to_string().contains("the-password"));
    let asked: usize = home.workers.iter().map(|worker| worker.images.counts().0).sum();
    assert_eq!(asked, 1, "no other worker is tried");
    let failed = home.rows(&id).await.into_iter().find(|row| row["status"] == "failed").unwrap();
    assert_eq!(failed["error"], "fault: RegistryAuth");
    let refused = home.create("app").await;
    assert_eq!(refused.error(), (503, "NO_SUITABLE_WORKER"));
    let message = refused.json["error"]["message"].as_str().unwrap();
    assert!(message.contains("fault: RegistryAuth") && message.contains("/warm"), "{message}");

    for worker in &home.workers {
        *worker.images.fault.lock().unwrap() = None;
    }
    let other = json!({ "registry_auth": { "username": "u", "password": "better" } });
    home.api().patch(&format!("/images/{id}"), &other).await.data();
    home.warm(&id).await;
    home.until_rows(&id, &["ready", "ready"]).await;
    assert_eq!(home.image(&id).await["status_reason"], Value::Null);
    let asks = home.workers.iter().flat_map(|worker| worker.images.asked.lock().unwrap().clone());
    let passwords: Vec<_> = asks
        .filter_map(|ask| match ask.from {
            ImageFrom::Source { source: BakeSource::Oci { auth, .. }, .. } => Some(auth?.password),
            _ => None,
        })
        .collect();
    assert!(passwords.contains(&"better".to_owned()), "the worker gets the password itself");
}

#[tokio::test]
async fn a_fault_of_a_worker_leads_to_the_next() {
    let home = Home::new(3).await;
    *home.workers[0].images.fault.lock().unwrap() = Some(ImageFaultCause::NoSpace);
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["failed", "ready", "ready"]).await;
    assert_eq!(home.image(&id).await["status"], "ready");
    *home.workers[0].images.fault.lock().unwrap() = None;
    let counts = home.warm(&id).await;
    assert_eq!((&counts["queued"], &counts["ready"]), (&json!(1), &json!(2)));
    home.until_rows(&id, &["ready"; 3]).await;
}

#[tokio::test]
async fn a_worker_that_failed_while_another_bakes_is_asked_again_after_a_warm() {
    let (home, baker, id) = a_slow_bake().await;
    home.workers[baker].images.fail(ImageFaultCause::NoSpace);
    home.until_rows(&id, &["failed", "baking"]).await;
    home.warm(&id).await;
    home.workers[baker].images.finish();
    home.workers[1 - baker].images.finish();
    home.until_rows(&id, &["ready", "ready"]).await;
}

#[tokio::test]
async fn an_image_whose_every_worker_fails_has_failed() {
    let home = Home::new(2).await;
    for worker in &home.workers {
        *worker.images.fault.lock().unwrap() = Some(ImageFaultCause::NoSpace);
    }
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_status(&id, "failed").await;
    home.until_rows(&id, &["failed", "failed"]).await;
    assert_eq!(home.image(&id).await["status_reason"], "fault: NoSpace");
}

/// Two workers that silence ends after a second, one of which bakes an image: who, and the image.
async fn a_slow_bake() -> (Home, usize, String) {
    let dir = tempfile::tempdir().unwrap();
    let worker_stale_after = std::time::Duration::from_secs(1);
    let config = ControllerConfig { worker_stale_after, ..config(dir.path()) };
    let server = Server::start_with(config).await;
    let workers = vec![server.worker().await, server.worker().await];
    let home = Home { server, workers, _dir: dir };
    for worker in &home.workers {
        *worker.images.is_slow.lock().unwrap() = true;
    }
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["baking", "pending"]).await;
    let baker = home.workers.iter().position(|worker| worker.images.counts().0 == 1).unwrap();
    let rows = home.rows(&id).await;
    assert_eq!(rows.iter().find(|row| row["status"] == "baking").unwrap()["progress"], 40);
    (home, baker, id)
}

#[tokio::test]
async fn a_baker_that_goes_away_is_replaced() {
    let (home, baker, id) = a_slow_bake().await;
    home.workers[baker].cut_link();
    let other = &home.workers[1 - baker];
    let taken_over = eventually(async || {
        other.heartbeat(&home.server.base).await;
        other.images.counts().0 == 1
    });
    assert!(taken_over.await);
    other.images.finish();
    let ready = eventually(async || {
        other.heartbeat(&home.server.base).await;
        home.image(&id).await["status"] == "ready"
    });
    assert!(ready.await);
}

#[tokio::test]
async fn a_baker_whose_link_breaks_for_a_moment_goes_on() {
    let (home, baker, id) = a_slow_bake().await;
    for _ in 0..3 {
        home.workers[baker].cut_link();
        home.beat().await;
        // The fan-out looks while the link is broken.
        home.warm(&id).await;
        home.server.link(&home.workers[baker]).await;
        home.beat().await;
    }
    home.workers[baker].images.finish();
    home.until_status(&id, "ready").await;
    assert_eq!(home.workers[1 - baker].images.counts().0, 0);
}

#[tokio::test]
async fn a_worker_with_another_root_than_the_images_gets_the_images() {
    let (home, baker, id) = a_slow_bake().await;
    *home.workers[1 - baker].images.is_slow.lock().unwrap() = false;
    home.workers[baker].images.finish();
    home.until_rows(&id, &["ready", "ready"]).await;
    let odd = &home.workers[1 - baker];
    odd.images.held.lock().unwrap().get_mut(&parsed(&id)).unwrap().digest = Some("sha256:x".into());
    home.until_rows(&id, &["ready", "pending"]).await;
    odd.images.held.lock().unwrap().clear();
    home.until_rows(&id, &["ready", "ready"]).await;
}

#[tokio::test]
async fn a_lazy_image_goes_where_there_is_room() {
    let home = Home::new(1).await;
    let body = json!({ "name": "app", "source": oci(), "lazy_pull": true });
    let id = home.add(body).await;
    home.until_status(&id, "ready").await;
    let large = json!({ "image": "app", "memory_mb": 2048 });
    let create = async || home.api().post("/bunkers?wait=true", &large).await;
    create().await.data();
    let full = create().await;
    assert_eq!(full.error(), (503, "WORKER_UNAVAILABLE"));
    let late = home.server.worker().await;
    assert_eq!(create().await.data()["worker_id"], late.id().to_string());
    assert_eq!(create().await.error(), (503, "WORKER_UNAVAILABLE"));
}

#[tokio::test]
async fn a_bunker_that_waits_for_its_image_can_be_ended() {
    let home = Home::new(1).await;
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["ready"]).await;
    let worker = &home.workers[0];
    worker.images.evict(parsed(&id));
    home.until_rows(&id, &["pending"]).await;
    *worker.images.is_slow.lock().unwrap() = true;
    let made = home.api().post("/bunkers", &json!({ "image": "app" })).await;
    let bunker = format!("/bunkers/{}", made.data()["id"].as_str().unwrap());
    let status = async || home.api().get(&bunker).await.data()["status"].clone();
    assert!(eventually(async || status().await == "provisioning").await);
    home.api().delete(&bunker).await.data();
    assert!(eventually(async || status().await == "terminated").await);
    worker.images.finish();
    home.beat().await;
    // One that is wanted starts meanwhile; the other never did.
    home.create("app").await.data();
    assert_eq!(worker.starts.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_scan_without_a_scanner_says_so() {
    let home = Home::new(1).await;
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    let path = format!("/images/{id}/scan");
    let scan = async || home.api().get(&path).await.data().clone();
    home.until_status(&id, "ready").await;
    let failed = eventually(async || scan().await["status"] == "failed");
    assert!(failed.await, "{}", scan().await);
    let found = scan().await;
    assert!(found["message"].as_str().unwrap().starts_with("scanner not available"), "{found}");
    let before = found["requested_at"].as_str().unwrap().to_owned();
    let asked = home.api().post(&path, &Value::Null).await;
    assert_eq!(asked.status, 202);
    assert!(asked.data()["requested_at"].as_str().unwrap() > before.as_str());
    let viewer = tenant(home.api(), "other").await;
    let viewer = person(home.api(), &viewer, "tenant_admin", &[]).await.api;
    assert_eq!(viewer.post(&path, &Value::Null).await.error(), (404, "IMAGE_NOT_FOUND"));
    let images = home.api().get("/images").await.data().clone();
    let built_in = images.as_array().unwrap().iter().find(|i| i["name"] == "busybox").unwrap();
    assert_eq!(built_in["scan_status"], "skipped");
    let path = format!("/images/{}/scan", built_in["id"].as_str().unwrap());
    assert_eq!(viewer.get(&path).await.data()["status"], "skipped");
    assert_eq!(viewer.post(&path, &Value::Null).await.data()["requested_at"], Value::Null);
}

#[tokio::test]
async fn an_upload_of_two_images_goes_with_the_last() {
    let home = Home::new(1).await;
    let owner = tenant(home.api(), "uploader").await;
    let owner = person(home.api(), &owner, "tenant_admin", &[]).await;
    let account = home.api().get(&format!("//v1/iam/users/{}", owner.id)).await;
    let tenant = account.data()["tenant_id"].as_str().unwrap().to_owned();
    let key = format!("images/uploads/{tenant}/app.tar");
    let stored = home.server.api.with_key(crate::server::WORKER_TOKEN);
    let object = format!("/storage/{key}");
    let put = stored.call(Method::PUT, &object, &[], "an archive").await;
    assert!(put.status.is_success(), "{}", put.json);
    let source = json!({ "kind": "tar", "key": key });
    let mut made = Vec::new();
    for name in ["one", "two"] {
        let answer = owner.api.post("/images", &json!({ "name": name, "source": source })).await;
        made.push(format!("/images/{}", answer.data()["id"].as_str().unwrap()));
    }
    let is_there = async || {
        let answer = stored.send(Method::HEAD, &object, &[], "").await;
        answer.status().is_success()
    };
    owner.api.done(Method::DELETE, &made[0], &Value::Null).await;
    assert!(is_there().await);
    owner.api.done(Method::DELETE, &made[1], &Value::Null).await;
    assert!(!is_there().await);
}

#[tokio::test]
async fn no_suitable_worker_says_why_and_what_to_do() {
    let home = Home::new(1).await;
    *home.workers[0].images.is_slow.lock().unwrap() = true;
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["baking"]).await;
    let refused = home.create("app").await;
    assert_eq!(refused.error(), (503, "NO_SUITABLE_WORKER"));
    let message = refused.json["error"]["message"].as_str().unwrap();
    for part in ["on its way to 1", "lazy_pull", "/cache", "/warm"] {
        assert!(message.contains(part), "{message}");
    }
    home.workers[0].images.finish();
    home.until_rows(&id, &["ready"]).await;
    home.create("app").await.data();
}

#[tokio::test]
async fn an_image_is_kept_where_its_groups_are() {
    let home = Home::new(2).await;
    let api = home.api();
    let groups = api.get("/availability-groups").await.data().clone();
    assert_eq!(
        (groups[0]["name"].as_str(), groups[0]["is_default"].as_bool()),
        (Some("default"), Some(true))
    );
    assert_eq!(groups[0]["worker_ids"].as_array().unwrap().len(), 2);
    let default = groups[0]["id"].as_str().unwrap().to_owned();
    let group = home.server.make("/availability-groups", &json!({ "name": "gpu" })).await;
    assert_eq!(
        api.post("/availability-groups", &json!({ "name": "gpu" })).await.error(),
        (409, "ALREADY_EXISTS")
    );
    let worker = home.workers[0].id().to_string();
    let path = format!("/availability-groups/{group}/workers");
    api.post(&path, &json!({ "worker_id": worker })).await.data();
    for worker in &home.workers {
        *worker.images.is_slow.lock().unwrap() = true;
    }
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    api.done(Method::DELETE, &format!("/availability-groups/{default}/images/{id}"), &Value::Null)
        .await;
    let message = home.create("app").await.json["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("availability"), "{message}");
    let path = format!("/availability-groups/{group}/images");
    let shown = api.post(&path, &json!({ "image_id": id })).await.data().clone();
    assert_eq!((&shown["image_ids"], &shown["worker_ids"]), (&json!([id]), &json!([worker])));
    for worker in &home.workers {
        *worker.images.is_slow.lock().unwrap() = false;
        if worker.images.counts().0 > 0 {
            worker.images.finish();
        }
    }
    let reached = eventually(async || {
        home.beat().await;
        let rows = home.rows(&id).await;
        rows.iter().any(|row| row["worker_id"] == worker && row["status"] == "ready")
    });
    assert!(reached.await, "{:?}", home.rows(&id).await);
    let error = api.delete(&format!("/availability-groups/{default}")).await;
    assert_eq!(error.error(), (409, "IN_USE"));
    api.done(Method::DELETE, &format!("/availability-groups/{group}"), &Value::Null).await;
}

#[tokio::test]
async fn a_worker_that_leaves_a_group_lets_go_of_its_images() {
    let home = Home::new(2).await;
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["ready", "ready"]).await;
    let group = home.api().get("/availability-groups").await.data()[0]["id"].clone();
    let group = group.as_str().unwrap().to_owned();
    let leaving = &home.workers[0];
    let member = format!("/availability-groups/{group}/workers/{}", leaving.id());
    let kept = leaving.images.reports();
    home.api().done(Method::DELETE, &member, &Value::Null).await;
    // A fan-out that is under way may ask it once more, and then has it forget again.
    let is_let_go = eventually(async || {
        home.beat().await;
        leaving.images.reports().is_empty() && home.rows(&id).await.len() == 1
    });
    assert!(is_let_go.await, "{:?}", home.rows(&id).await);
    for _ in 0..2 {
        let bunker = home.create("app").await;
        assert_eq!(bunker.data()["worker_id"], home.workers[1].id().to_string());
    }
    // One that was away meanwhile is told when it is back.
    leaving.images.held.lock().unwrap().extend(kept.into_iter().map(|r| (r.image_id, r)));
    let forgotten = eventually(async || {
        home.beat().await;
        leaving.images.reports().is_empty()
    });
    assert!(forgotten.await);
    assert_eq!(home.rows(&id).await.len(), 1);
}

#[tokio::test]
async fn a_lazy_image_is_fetched_when_a_bunker_wants_it() {
    let home = Home::new(1).await;
    let body = json!({ "name": "app", "source": oci(), "lazy_pull": true });
    let made = home.api().post("/images", &body).await.data().clone();
    assert_eq!((&made["warm"]["queued"], &made["warm"]["skipped"]), (&json!(0), &json!(1)));
    let id = made["id"].as_str().unwrap().to_owned();
    home.until_status(&id, "ready").await;
    let late = home.server.worker().await;
    // Only the late worker has room.
    home.workers[0].cut_link();
    let gone = eventually(async || {
        let bunker = home.create("app").await;
        bunker.status == 201 && bunker.data()["worker_id"] == late.id().to_string()
    });
    assert!(gone.await);
    assert_eq!(late.images.counts(), (0, 1));
    *late.images.fault.lock().unwrap() = Some(ImageFaultCause::NoSpace);
    late.images.held.lock().unwrap().clear();
    late.heartbeat(&home.server.base).await;
    let failed = home.create("app").await;
    assert_eq!(failed.data()["status"], "failed");
    let reason = failed.data()["status_reason"].as_str().unwrap();
    assert!(reason.contains("fault: NoSpace"), "{reason}");
}

#[tokio::test]
async fn an_evicted_image_comes_back_for_a_bunker_alone() {
    let home = Home::new(1).await;
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["ready"]).await;
    home.workers[0].images.evict(parsed(&id));
    home.until_rows(&id, &["pending"]).await;
    let row = home.rows(&id).await.remove(0);
    assert_eq!(row["error"], "evicted for others");
    assert_eq!(home.workers[0].images.counts(), (1, 0), "it is not fetched by itself");
    assert_eq!(home.create("app").await.data()["status"], "running");
    assert_eq!(home.workers[0].images.counts(), (1, 1));
}

#[tokio::test]
async fn an_image_in_use_stays_and_a_deleted_one_is_forgotten_everywhere() {
    let home = Home::new(1).await;
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["ready"]).await;
    let bunker = home.create("app").await.data()["id"].as_str().unwrap().to_owned();
    let path = format!("/images/{id}");
    assert_eq!(home.api().delete(&path).await.error(), (409, "IN_USE"));
    home.api().delete(&format!("/bunkers/{bunker}")).await.data();
    let kept = home.workers[0].images.reports();
    let deleted =
        eventually(async || outcome(home.api(), "DELETE", &path, &Value::Null).await.0 == 204);
    assert!(deleted.await);
    assert!(home.workers[0].images.reports().is_empty());
    assert_eq!(home.api().get(&path).await.error(), (404, "IMAGE_NOT_FOUND"));
    assert_eq!(home.api().delete(&path).await.error(), (404, "IMAGE_NOT_FOUND"));
    assert_eq!(home.create("app").await.error(), (404, "IMAGE_NOT_FOUND"));
    // A worker that was away meanwhile still names it.
    home.workers[0].images.held.lock().unwrap().extend(kept.into_iter().map(|r| (r.image_id, r)));
    let forgotten = eventually(async || {
        home.beat().await;
        home.workers[0].images.reports().is_empty()
    });
    assert!(forgotten.await);
    // Its name is free again.
    home.add(json!({ "name": "app", "source": oci() })).await;
}

#[tokio::test]
async fn a_repeated_create_makes_one_image() {
    let home = Home::new(0).await;
    let body = json!({ "name": "app", "source": oci() }).to_string();
    let key = [("idempotency-key", "k")];
    let create = async || home.api().call(Method::POST, "/images", &key, body.clone()).await;
    let (first, again) = (create().await, create().await);
    assert_eq!(first.data()["id"], again.data()["id"]);
    let other = home.api().post("/images", &json!({ "name": "app", "source": oci() })).await;
    assert_eq!(other.error(), (409, "ALREADY_EXISTS"));
    assert_eq!(other.fields(), ["name"]);
}

#[tokio::test]
async fn a_tenants_images_are_its_own_and_come_before_the_platforms() {
    let home = Home::new(1).await;
    let admin = home.api();
    let (one, two) = (tenant(admin, "one").await, tenant(admin, "two").await);
    let one = person(admin, &one, "tenant_admin", &[]).await.api;
    let two = person(admin, &two, "tenant_admin", &[]).await.api;
    let body = json!({ "name": "app", "source": oci() });
    let own = one.post("/images", &body).await.data()["id"].as_str().unwrap().to_owned();
    let body = json!({ "name": "app", "source": oci(), "scope": "platform" });
    let shared = admin.post("/images", &body).await.data()["id"].as_str().unwrap().to_owned();
    assert_eq!(one.post("/images", &body).await.error(), (403, "FORBIDDEN"));
    for path in [format!("/images/{own}"), format!("/images/{own}/cache")] {
        one.get(&path).await.data();
        assert_eq!(two.get(&path).await.error(), (404, "IMAGE_NOT_FOUND"));
    }
    let warm = two.post(&format!("/images/{own}/warm"), &Value::Null).await;
    assert_eq!(warm.error(), (404, "IMAGE_NOT_FOUND"));
    let change = two.patch(&format!("/images/{shared}"), &json!({ "name": "x" })).await;
    assert_eq!(change.error(), (403, "FORBIDDEN"));
    home.until_status(&own, "ready").await;
    home.until_status(&shared, "ready").await;
    let means = async |api: &Api| {
        let bunker = api.post("/bunkers?wait=true", &json!({ "image": "app" })).await;
        bunker.data()["image_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(means(&one).await, own);
    assert_eq!(means(&two).await, shared);
    let listed = two.get("/images").await.data().clone();
    assert!(listed.as_array().unwrap().iter().all(|image| image["id"] != own));
}

#[tokio::test]
async fn a_restarted_controller_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let body = json!({ "name": "app", "source": oci() });
    let id = server.api.post("/images", &body).await.data()["id"].as_str().unwrap().to_owned();
    server.stop().await;
    let home = Home { server: Server::start(dir.path()).await, workers: Vec::new(), _dir: dir };
    let home = Home { workers: vec![home.server.worker().await], ..home };
    home.until_rows(&id, &["ready"]).await;
    home.until_status(&id, "ready").await;
    home.create("app").await.data();
}

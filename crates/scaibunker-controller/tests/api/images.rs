//! Images: registered, baked once, brought to the workers, used, warmed, deleted.

use http::Method;
use scaibunker_api::{
    ids::ImageId,
    worker::{BakeSource, ImageFaultCause, ImageFrom},
};
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    people::{outcome, person, tenant},
    server::Server,
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
    assert_eq!(image["scan_status"], "pending");
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
    let home = Home::new(2).await;
    *home.workers[0].images.fault.lock().unwrap() = Some(ImageFaultCause::NoSpace);
    *home.workers[1].images.is_slow.lock().unwrap() = true;
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["failed", "baking"]).await;
    *home.workers[0].images.fault.lock().unwrap() = None;
    home.warm(&id).await;
    home.workers[1].images.finish();
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

#[tokio::test]
async fn a_baker_that_goes_away_is_replaced() {
    let home = Home::new(2).await;
    for worker in &home.workers {
        *worker.images.is_slow.lock().unwrap() = true;
    }
    let id = home.add(json!({ "name": "app", "source": oci() })).await;
    home.until_rows(&id, &["baking", "pending"]).await;
    let baker = home.workers.iter().position(|worker| worker.images.counts().0 == 1).unwrap();
    assert_eq!(
        home.rows(&id).await.iter().find(|r| r["status"] == "baking").unwrap()["progress"],
        40
    );
    home.workers[baker].cut_link();
    let other = &home.workers[1 - baker];
    let taken_over = eventually(async || other.images.counts().0 == 1);
    assert!(taken_over.await);
    other.images.finish();
    home.until_status(&id, "ready").await;
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

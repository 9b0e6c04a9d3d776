//! Lists, filters and records.

use serde_json::{Value, json};

use crate::server::Server;

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|bunker| bunker["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn bunkers_are_listed_newest_first_by_page_and_filter() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    worker.capacity.lock().unwrap().cpu_millicores = 100_000;
    server.link(&worker).await;
    let api = &server.api;
    let mut ids = Vec::new();
    for number in 0..5 {
        let mode = if number % 2 == 0 { "ephemeral" } else { "session" };
        let body = json!({
            "image": "busybox", "name": number.to_string(), "lifecycle_mode": mode,
            "label_set": { "n": (number % 3).to_string(), "all": "" },
        });
        let made = api.post("/bunkers?wait=true", &body).await;
        ids.push(made.data()["id"].as_str().unwrap().to_owned());
    }
    let first = api.get("/bunkers?limit=2").await;
    assert_eq!((names(first.data()), &first.json["has_more"]), (vec!["4", "3"], &json!(true)));
    api.post("/bunkers?wait=true", &json!({ "image": "busybox", "name": "5" })).await;
    let cursor = first.json["next_cursor"].as_str().unwrap();
    let second = api.get(&format!("/bunkers?limit=2&cursor={cursor}")).await;
    assert_eq!(names(second.data()), ["2", "1"], "what is new moves nothing");
    let cursor = second.json["next_cursor"].as_str().unwrap();
    let last = api.get(&format!("/bunkers?limit=2&cursor={cursor}")).await;
    assert_eq!(names(last.data()), ["0"]);
    assert_eq!((&last.json["has_more"], &last.json["next_cursor"]), (&json!(false), &Value::Null));

    api.delete(&format!("/bunkers/{}", ids[0])).await;
    let listed = async |query: &str| -> Vec<String> {
        let answer = api.get(&format!("/bunkers?{query}")).await;
        names(answer.data()).iter().map(ToString::to_string).collect()
    };
    assert_eq!(listed("status=terminated").await, ["0"]);
    assert_eq!(listed("status=terminated,running&limit=200").await.len(), 6);
    assert_eq!(listed("lifecycle=session").await, ["3", "1"]);
    assert_eq!(listed("label=n=0").await, ["3", "0"]);
    assert_eq!(listed("label=n=1,all").await, ["4", "1"]);
    assert_eq!(listed("label=none").await, [""; 0]);
    assert_eq!(listed("label=n=0&status=running&lifecycle=session").await, ["3"]);
    server.stop().await;
}

#[tokio::test]
async fn an_owner_can_change_a_bunker() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let path = format!("/bunkers/{}", api.running_bunker().await);
    let change = json!({ "name": "n", "label_set": { "a": "b" }, "max_lifetime_s": 60 });
    let changed = api.patch(&path, &change).await.data().clone();
    assert_eq!((&changed["name"], &changed["max_lifetime_s"]), (&json!("n"), &json!(60)));
    assert_eq!(api.get(&path).await.data(), &changed);
    assert_eq!(api.get("/bunkers?label=a=b").await.data().as_array().unwrap().len(), 1);
    let unnamed = api.patch(&path, &json!({ "name": null })).await;
    assert_eq!(
        (&unnamed.data()["name"], &unnamed.data()["max_lifetime_s"]),
        (&Value::Null, &json!(60))
    );
    assert_eq!(api.patch(&path, &json!({ "image": "x" })).await.fields(), ["image"]);
    assert_eq!(
        api.patch(&path, &json!({ "max_lifetime_s": 0 })).await.fields(),
        ["max_lifetime_s"]
    );
    api.delete(&path).await;
    let ended = api.patch(&path, &json!({ "name": "x" })).await;
    assert_eq!(ended.error(), (409, "BUNKER_NOT_RUNNING"));
    server.stop().await;
}

#[tokio::test]
async fn images_and_workers_have_records_that_stay() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let images = server.api.get("/images").await.data().clone();
    assert_eq!(images.as_array().unwrap().len(), 1);
    assert_eq!(images[0]["name"], "busybox");
    let id = images[0]["id"].as_str().unwrap();
    assert_eq!(server.api.get(&format!("/images/{id}")).await.data(), &images[0]);
    for image in [id, "busybox@sha256:0123"] {
        let made = server.api.post("/bunkers?wait=true", &json!({ "image": image })).await;
        assert_eq!((&made.data()["image_id"], &made.data()["image"]), (&json!(id), &json!(image)));
    }
    let unknown = format!("/images/{}", scaibunker_api::ids::ImageId::generate());
    assert_eq!(server.api.get(&unknown).await.error(), (404, "IMAGE_NOT_FOUND"));

    let workers = server.api.get("/workers").await.data().clone();
    assert_eq!(workers[0]["id"], worker.id().to_string());
    assert_eq!(
        (&workers[0]["status"], &workers[0]["allocated"]["memory_mb"]),
        (&json!("online"), &json!(512))
    );
    server.stop().await;

    let server = Server::start(dir.path()).await;
    assert_eq!(server.api.get("/images").await.data(), &images);
    let again = server.api.get("/workers").await.data().clone();
    assert_eq!((again.as_array().unwrap().len(), &again[0]["id"]), (1, &workers[0]["id"]));
    assert_eq!(again[0]["allocated"], workers[0]["allocated"]);
    server.link(&worker).await;
    assert_eq!(server.api.get("/images").await.data(), &images);
    server.stop().await;
}

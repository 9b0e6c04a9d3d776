//! The manual's section on images, followed to the letter.

use http::Method;
use serde_json::json;

use crate::{
    image_layers::{base, config},
    images::{add, bunker_of, image, oci, rows, until, until_status},
    registry::{PASSWORD, Registry, layout},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn image_registered_but_no_bunkers_can_use_it() {
    let (server, registry) = (Server::start(), Registry::start());
    let layout = layout(&[base(&server).await.tar()], config());
    registry.push(layout.path(), "app:1");
    let reference = registry.reference("app:1");
    let id = add(&server, "app", oci(&reference, "wrong")).await;
    until_status(&server, &id, "failed").await;
    let refused = server.call(Method::POST, "/bunkers", Some(json!({ "image": "app" }))).await;
    assert_eq!(refused.error(), (503, "NO_SUITABLE_WORKER"));

    // "Check GET /images/{id}/cache — if every row is pending or failed, the fan-out didn't reach
    // the workers." "Inspect a failing worker row's error field — usually a registry auth failure,
    // an OOM during mkfs.ext4, or a size cap that was set too low."
    let failing = rows(&server, &id).await;
    assert_eq!((failing.len(), &failing[0]["status"]), (1, &json!("failed")));
    let error = failing[0]["error"].as_str().unwrap();
    assert!(error.starts_with("registry authentication failed"), "{error}");
    assert!(!error.contains("wrong"), "{error}");

    // "Re-trigger with POST /images/{id}/warm (idempotent)."
    let better = json!({ "registry_auth": oci(&reference, PASSWORD)["registry_auth"] });
    server.call(Method::PATCH, &format!("/images/{id}"), Some(better)).await.data();
    let warm = format!("/images/{id}/warm");
    for _ in 0..3 {
        server.call(Method::POST, &warm, None).await.data();
    }
    until_status(&server, &id, "ready").await;
    bunker_of(&server, "app").await;
    let counts = server.call(Method::POST, &warm, None).await;
    assert_eq!(counts.data(), &json!({ "queued": 0, "ready": 1, "failed": 0, "skipped": 0 }));

    // A size cap that was set too low.
    let body = json!({ "name": "tight", "source": oci(&reference, PASSWORD), "size_mib": 16 });
    let noise = vec![1; 20 << 20];
    let large = base(&server).await.file("srv/large", &noise, 0o644, (0, 0));
    let large = crate::registry::layout(&[large.tar()], config());
    registry.push(large.path(), "app:1");
    let tight = server.call(Method::POST, "/images", Some(body)).await.data()["id"].clone();
    let tight = tight.as_str().unwrap();
    let failed = until_status(&server, tight, "failed").await;
    let reason = failed["status_reason"].as_str().unwrap();
    assert!(reason.starts_with("size cap too small"), "{reason}");
    assert!(reason.contains("mkfs.ext4"), "{reason}");

    // "Check the image is in an availability group containing your workers (POST
    // /availability-groups/{group_id}/images)."
    let groups = server.call(Method::GET, "/availability-groups", None).await;
    let group = groups.data()[0]["id"].as_str().unwrap().to_owned();
    let worker = groups.data()[0]["worker_ids"][0].as_str().unwrap().to_owned();
    let member = format!("/availability-groups/{group}/workers/{worker}");
    server.call(Method::DELETE, &member, None).await;
    let outside = add(&server, "outside", oci(&reference, PASSWORD)).await;
    let create = json!({ "image": "outside" });
    let refused = server.call(Method::POST, "/bunkers", Some(create.clone())).await;
    assert_eq!(refused.error(), (503, "NO_SUITABLE_WORKER"));
    let message = refused.json["error"]["message"].as_str().unwrap();
    assert!(message.contains("/availability-groups/{id}/images"), "{message}");
    assert!(rows(&server, &outside).await.is_empty());
    let own = json!({ "name": "own" });
    let own =
        server.call(Method::POST, "/availability-groups", Some(own)).await.data()["id"].clone();
    let own = format!("/availability-groups/{}", own.as_str().unwrap());
    let add_worker = json!({ "worker_id": worker });
    server.call(Method::POST, &format!("{own}/workers"), Some(add_worker)).await.data();
    let add_image = json!({ "image_id": outside });
    server.call(Method::POST, &format!("{own}/images"), Some(add_image)).await.data();
    // It is 64 MiB at most, which is enough.
    until("the image is ready", async || image(&server, &outside).await["status"] == "ready").await;
    bunker_of(&server, "outside").await;
}

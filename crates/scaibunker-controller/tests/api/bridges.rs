//! Bridges, and bunkers that are attached to them.

use http::Method;
use serde_json::{Value, json};

use crate::{
    people::{person, tenant},
    server::Server,
};

fn transit(bridges: &[&str]) -> Value {
    let interface = |(index, bridge): (usize, &&str)| json!({ "if_name": format!("eth{index}"), "bridge_name": bridge });
    let interfaces: Vec<_> = bridges.iter().enumerate().map(interface).collect();
    json!({
        "image": "busybox",
        "memory_mb": 256,
        "network_profile": "transit",
        "interfaces": interfaces,
    })
}

#[tokio::test]
async fn a_transit_bunker_lands_where_all_its_bridges_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let api = &server.api;
    let (first, second) = (server.worker().await, server.worker().await);
    let make = async |name: &str, worker: &str| {
        let body = json!({ "name": name, "worker_id": worker });
        api.post("/bridges", &body).await
    };
    let (one, two) = (first.id().to_string(), second.id().to_string());
    let lan = make("lan", &one).await.data()["id"].as_str().unwrap().to_owned();
    make("lan", &two).await.data();
    make("dmz", &two).await.data();
    make("far", &one).await.data();
    assert_eq!(make("lan", &one).await.error(), (409, "ALREADY_EXISTS"));
    assert_eq!(make("a bridge", &one).await.error(), (422, "VALIDATION_ERROR"));
    let nobody = "wrk_01jd7y2m0k3v9c8x5w6t7r4q2z";
    assert_eq!(make("lan", nobody).await.error(), (422, "VALIDATION_ERROR"));
    assert_eq!(api.get("/bridges").await.data().as_array().unwrap().len(), 4);

    for _ in 0..3 {
        let made = api.post("/bunkers?wait=true", &transit(&["lan", "dmz"])).await;
        assert_eq!(made.data()["worker_id"], two, "{}", made.json);
    }
    let made = api.post("/bunkers?wait=true", &transit(&["far", "lan"])).await;
    assert_eq!(made.data()["worker_id"], one);
    assert_eq!(made.data()["interfaces"][0]["spoof_guard"], true);
    let bunker = made.data()["id"].as_str().unwrap().to_owned();

    for bridges in [&["wan"][..], &["dmz", "far"]] {
        let refused = api.post("/bunkers", &transit(bridges)).await;
        assert_eq!(refused.error(), (422, "BRIDGE_NOT_FOUND"), "{bridges:?}");
    }
    // One that is in use stays.
    let path = format!("/bridges/{lan}");
    assert_eq!(api.delete(&path).await.error(), (409, "IN_USE"));
    api.delete(&format!("/bunkers/{bunker}")).await.data();
    api.done(Method::DELETE, &path, &Value::Null).await;
    assert_eq!(api.delete(&path).await.error(), (404, "NOT_FOUND"));
}

#[tokio::test]
async fn who_may_be_transparent_needs_a_permission_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let bridge = json!({ "name": "lan", "worker_id": worker.id() });
    server.api.post("/bridges", &bridge).await.data();
    let tenant = tenant(&server.api, "acme").await;
    let mut open = transit(&["lan"]);
    open["interfaces"][0]["spoof_guard"] = false.into();
    let rights = ["scaibunker:create", "scaibunker:network:transit"];
    let plain = person(&server.api, &tenant, "tenant_user", &rights).await.api;
    assert_eq!(plain.post("/bunkers", &open).await.error(), (403, "NETWORK_PROFILE_DENIED"));
    plain.post("/bunkers", &transit(&["lan"])).await.data();
    assert_eq!(plain.post("/bridges", &bridge).await.error(), (403, "FORBIDDEN"));
    let rights = [&rights[..], &["scaibunker:l2_transparency"]].concat();
    let transparent = person(&server.api, &tenant, "tenant_user", &rights).await.api;
    let made = transparent.post("/bunkers", &open).await;
    assert_eq!(made.data()["interfaces"][0]["spoof_guard"], false);
}

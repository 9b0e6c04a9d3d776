//! The product manual's sections on quotas and permissions, followed to the letter: a test for each.

use http::Method;
use serde_json::{Value, json};

use crate::{
    caller::Caller,
    server::{Answer, Server, eventually},
};

const BUNKER: &str = "/bunkers?wait=true";

fn small(fields: Value) -> Option<Value> {
    let mut body = json!({ "image": "busybox", "disk_mb": 64, "memory_mb": 256 });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Some(body)
}

fn id_of(answer: &Answer) -> String {
    answer.data()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bunker_quota_exceeded() {
    let server = Server::start();
    let admin = Caller::admin(&server);
    let tenant = admin.tenant("acme").await;
    let (user_id, user) = admin.user(&tenant, "ann", &["scaibunker:create"]).await;
    let profile = json!({ "name": "two", "tenant_id": tenant, "max_concurrent_bunkers": 2 });
    let profile = admin.made("/quota-profiles", profile).await;
    let assignments = format!("/quota-profiles/{profile}/assignments");
    admin.made(&assignments, json!({ "target_kind": "user", "target_id": user_id })).await;

    let first = id_of(&user.call(Method::POST, BUNKER, small(json!({}))).await);
    let second = id_of(&user.call(Method::POST, BUNKER, small(json!({}))).await);

    // "The caller's resolved quota would be over a cap."
    let refused = user.call(Method::POST, BUNKER, small(json!({}))).await;
    assert_eq!(refused.error(), (429, "BUNKER_QUOTA_EXCEEDED"));
    let detail = |field: &str| {
        let details = refused.json["error"]["details"].as_array().unwrap();
        let found = details.iter().find(|detail| detail["field"] == field);
        found.unwrap()["message"].as_str().unwrap().to_owned()
    };
    let bucket = format!("user:{user_id}");
    assert!(detail("profile").contains("two"), "{}", refused.json);
    assert_eq!(detail("bucket"), bucket);
    assert_eq!(detail("resource"), "concurrent_bunkers");
    assert_eq!([detail("current"), detail("cap"), detail("requested")], ["2", "2", "1"]);

    // "Read GET /quota-profiles/usage — you'll see one row per profile applying to your user, with
    // the bucket, current usage, cap, and headroom."
    let usage = user.usage(&bucket, "concurrent_bunkers").await;
    assert_eq!(usage, json!({ "current": 2, "cap": 2, "headroom": 0 }));

    // "Terminate idle bunkers; quota is decremented across every bucket they contributed to."
    user.call(Method::DELETE, &format!("/bunkers/{first}"), None).await.data();
    assert_eq!(user.usage(&bucket, "concurrent_bunkers").await["current"], 1);
    assert_eq!(user.usage(&bucket, "memory_mb").await["current"], 256);
    let third = id_of(&user.call(Method::POST, BUNKER, small(json!({}))).await);

    // "Ask a tenant admin to assign a more generous profile or raise the existing one."
    let (admin_id, tenant_admin) = admin.user(&tenant, "tom", &[]).await;
    let role = json!({ "role": "tenant_admin" });
    admin.call(Method::PATCH, &format!("//v1/iam/users/{admin_id}"), Some(role)).await.data();
    let raised = json!({ "max_concurrent_bunkers": 3 });
    let path = format!("/quota-profiles/{profile}");
    tenant_admin.call(Method::PATCH, &path, Some(raised)).await.data();
    user.call(Method::POST, BUNKER, small(json!({}))).await.data();
    assert_eq!(user.usage(&bucket, "concurrent_bunkers").await["headroom"], 0);
    for id in [second, third] {
        user.call(Method::DELETE, &format!("/bunkers/{id}"), None).await.data();
    }
    assert_eq!(user.usage(&bucket, "concurrent_bunkers").await["current"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn network_profile_denied_or_lifecycle_mode_denied() {
    let server = Server::start();
    let admin = Caller::admin(&server);
    let tenant = admin.tenant("acme").await;
    let (user_id, user) = admin.user(&tenant, "ann", &["scaibunker:create"]).await;
    let grant = async |permissions: &[&str]| {
        let mut all = vec!["scaibunker:create"];
        all.extend(permissions);
        let path = format!("//v1/users/{user_id}/module-permissions");
        let body = json!({ "module_permissions": all });
        admin.call(Method::PUT, &path, Some(body)).await.data();
    };

    // "registry needs scaibunker:network:registry, allowlisted needs scaibunker:network:allowlisted,
    // etc."
    for (profile, more) in [
        ("registry", json!({})),
        ("allowlisted", json!({ "network_allowlist": ["example.com"] })),
        ("unrestricted", json!({})),
        ("transit", json!({ "interfaces": [{ "if_name": "eth0", "bridge_name": "br0" }] })),
    ] {
        let mut fields = more;
        fields["network_profile"] = json!(profile);
        let refused = user.call(Method::POST, BUNKER, small(fields.clone())).await;
        assert_eq!(refused.error(), (403, "NETWORK_PROFILE_DENIED"), "{}", refused.json);
        let key = format!("scaibunker:network:{profile}");
        assert!(refused.json["error"]["message"].as_str().unwrap().contains(&key));
        // "Ask a tenant admin to grant the specific key — these are deliberately granular."
        grant(&[&key]).await;
        let answer = user.call(Method::POST, BUNKER, small(fields)).await;
        assert_ne!(answer.error().1, "NETWORK_PROFILE_DENIED", "{}", answer.json);
        grant(&[]).await;
    }

    // "session needs scaibunker:create:session, persistent needs scaibunker:create:persistent."
    for mode in ["session", "persistent"] {
        let fields = json!({ "lifecycle_mode": mode });
        let refused = user.call(Method::POST, BUNKER, small(fields.clone())).await;
        assert_eq!(refused.error(), (403, "LIFECYCLE_MODE_DENIED"), "{}", refused.json);
        let key = format!("scaibunker:create:{mode}");
        assert!(refused.json["error"]["message"].as_str().unwrap().contains(&key));
        grant(&[&key]).await;
        let made = user.call(Method::POST, BUNKER, small(fields)).await;
        assert_eq!(made.data()["lifecycle_mode"], mode);
        let no_limit = mode == "persistent";
        assert_eq!(made.data()["max_lifetime_s"].is_null(), no_limit);
        grant(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_not_allowed_and_transit_missing_interfaces() {
    let server = Server::start();
    let admin = Caller::admin(&server);

    // "The interfaces[] array is only valid with network_profile: "transit", and transit requires at
    // least one interface."
    let interfaces = json!([{ "if_name": "eth0", "bridge_name": "br0" }]);
    let fields = json!({ "interfaces": interfaces });
    let refused = admin.call(Method::POST, BUNKER, small(fields)).await;
    assert_eq!(refused.error(), (422, "INTERFACES_NOT_ALLOWED"), "{}", refused.json);
    let fields = json!({ "network_profile": "transit" });
    let refused = admin.call(Method::POST, BUNKER, small(fields)).await;
    assert_eq!(refused.error(), (422, "TRANSIT_MISSING_INTERFACES"), "{}", refused.json);

    // "For everything else, drop the interfaces field."
    admin.call(Method::POST, BUNKER, small(json!({}))).await.data();
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_and_bunkers_double_charged() {
    let server = Server::start();
    let admin = Caller::admin(&server);
    let tenant = admin.tenant("acme").await;
    let permissions = ["scaibunker:create", "scaibunker:create:persistent", "scaibunker:execute"];
    let (user_id, user) = admin.user(&tenant, "ann", &permissions).await;
    let profile = json!({
        "name": "small",
        "tenant_id": tenant,
        "max_concurrent_bunkers": 2,
        "max_cpu_millicores": 1500,
    });
    let profile = admin.made("/quota-profiles", profile).await;
    let assignments = format!("/quota-profiles/{profile}/assignments");
    admin.made(&assignments, json!({ "target_kind": "user", "target_id": user_id })).await;
    let bucket = format!("user:{user_id}");
    let current = async |resource: &str| user.usage(&bucket, resource).await["current"].clone();

    let fields = json!({ "lifecycle_mode": "persistent", "cpu_millicores": 1000 });
    let first = id_of(&user.call(Method::POST, BUNKER, small(fields.clone())).await);
    let exec = async |line: &str| {
        let body = json!({ "command": line });
        user.call(Method::POST, &format!("/bunkers/{first}/exec"), Some(body)).await
    };
    exec("echo kept > /tmp/proof").await.data();

    // "A persistent bunker holds quota for its entire lifetime, even when paused. Pause counts
    // toward max_concurrent_bunkers, not toward CPU usage on Redis."
    let paused = user.call(Method::POST, &format!("/bunkers/{first}/pause"), None).await;
    assert_eq!(paused.data()["status"], "paused");
    assert_eq!(current("concurrent_bunkers").await, 1);
    assert_eq!(current("persistent_bunkers").await, 1);
    assert_eq!(current("memory_mb").await, 256);
    assert_eq!(current("cpu_millicores").await, 0);
    let refused = exec("true").await;
    assert_eq!(refused.error(), (409, "BUNKER_NOT_RUNNING"));
    assert!(refused.json["error"]["message"].as_str().unwrap().contains("resume"));

    // The CPU that a paused bunker does not count is another one's; then it cannot come back.
    let second = id_of(&user.call(Method::POST, BUNKER, small(fields.clone())).await);
    let resume = format!("/bunkers/{first}/resume");
    let refused = user.call(Method::POST, &resume, None).await;
    assert_eq!(refused.error(), (429, "BUNKER_QUOTA_EXCEEDED"), "{}", refused.json);
    // "pause doesn't release": there is no room for a third.
    let fields = json!({ "cpu_millicores": 100 });
    let third = user.call(Method::POST, BUNKER, small(fields)).await;
    assert_eq!(third.error(), (429, "BUNKER_QUOTA_EXCEEDED"), "{}", third.json);

    // "If you want to give back resources, terminate (optionally with snapshot)". Snapshots have
    // tests of their own.
    user.call(Method::DELETE, &format!("/bunkers/{second}"), None).await.data();
    assert_eq!(current("concurrent_bunkers").await, 1);
    let resumed = user.call(Method::POST, &resume, None).await;
    assert_eq!(resumed.data()["status"], "running", "{}", resumed.json);
    assert_eq!(current("cpu_millicores").await, 1000);
    assert_eq!(exec("cat /tmp/proof").await.data()["stdout"], "kept\n");
    user.call(Method::DELETE, &format!("/bunkers/{first}"), None).await.data();
    eventually("nothing is counted", async || {
        current("concurrent_bunkers").await == 0 && current("memory_mb").await == 0
    })
    .await;
}

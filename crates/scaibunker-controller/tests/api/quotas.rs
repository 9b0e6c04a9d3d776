//! Quota profiles: who may make and assign them, and the rows of usage.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::eventually,
    people::{Person, make, outcome, person, tenant},
    server::{Server, config},
};

struct World {
    _dir: tempfile::TempDir,
    server: Server,
    tenant: String,
    admin: Person,
    user: Person,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.platform_max.max_memory_mb = Some(5_000);
        let server = Server::start_with(config).await;
        let tenant = tenant(&server.api, "t").await;
        let admin = person(&server.api, &tenant, "tenant_admin", &[]).await;
        let user = person(&server.api, &tenant, "tenant_user", &["scaibunker:create"]).await;
        Self { _dir: dir, server, tenant, admin, user }
    }

    async fn profile(&self, name: &str, cap: u64) -> String {
        let body = json!({ "name": name, "max_concurrent_bunkers": cap });
        make(&self.admin.api, "/quota-profiles", &body).await
    }

    async fn assign(&self, profile: &str, kind: &str, target: &str, mode: &str) -> String {
        let body = json!({ "target_kind": kind, "target_id": target, "mode": mode });
        let api = if kind == "tenant" { &self.server.api } else { &self.admin.api };
        make(api, &format!("/quota-profiles/{profile}/assignments"), &body).await
    }

    /// Profile's name, bucket and cap on bunkers of each row of the user.
    async fn rows(&self) -> Vec<(String, String, Value)> {
        let usage = self.user.api.get("/quota-profiles/usage").await;
        let mut rows: Vec<_> = usage
            .data()
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let text = |field: &str| row[field].as_str().unwrap().to_owned();
                let cap = row["resources"]["concurrent_bunkers"]["cap"].clone();
                (text("profile_name"), text("bucket"), cap)
            })
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    }
}

#[tokio::test]
async fn usage_has_a_row_for_each_profile_that_applies() {
    let world = World::new().await;
    let user = format!("user:{}", world.user.id);
    let row = |name: &str, bucket: &str, cap: Value| (name.to_owned(), bucket.to_owned(), cap);
    assert_eq!(world.rows().await, [row("default", &user, Value::Null)]);
    let usage = world.user.api.get("/quota-profiles/usage").await;
    assert_eq!(
        usage.data()[0]["resources"]["memory_mb"],
        json!({ "current": 0, "cap": 5000, "headroom": 5000 }),
        "the platform's ceiling is over all"
    );

    let parent = make(&world.admin.api, "//v1/iam/groups", &json!({ "name": "parent" })).await;
    let child =
        make(&world.admin.api, "//v1/iam/groups", &json!({ "name": "child", "parent_id": parent }))
            .await;
    let path = format!("//v1/iam/groups/{child}/members/{}", world.user.id);
    world.admin.api.done(Method::PUT, &path, &Value::Null).await;
    let of_tenant = world.profile("a tenant", 9).await;
    world.assign(&of_tenant, "tenant", &world.tenant, "shared").await;
    let tenant = format!("tenant:{}", world.tenant);
    assert_eq!(
        world.rows().await,
        [row("a tenant", &tenant, json!(9)), row("default", &user, Value::Null)],
        "a tenant's cap does not replace the default"
    );
    let (shared, each, own) = (
        world.profile("b shared", 3).await,
        world.profile("c each", 2).await,
        world.profile("d own", 1).await,
    );
    let shared_assignment = world.assign(&shared, "group", &parent, "shared").await;
    world.assign(&each, "group", &child, "per_user").await;
    world.assign(&own, "user", &world.user.id, "individual").await;
    assert_eq!(
        world.rows().await,
        [
            row("a tenant", &tenant, json!(9)),
            row("b shared", &format!("group:{parent}"), json!(3)),
            row("c each", &user, json!(2)),
            row("d own", &user, json!(1)),
        ]
    );
    world
        .admin
        .api
        .done(
            Method::DELETE,
            &format!("/quota-profiles/{shared}/assignments/{shared_assignment}"),
            &Value::Null,
        )
        .await;
    assert_eq!(world.rows().await.len(), 3, "changes apply at once");
    world
        .admin
        .api
        .patch(&format!("/quota-profiles/{own}"), &json!({ "max_concurrent_bunkers": 7 }))
        .await
        .data();
    assert_eq!(world.rows().await[2].2, json!(7));
    world.server.stop().await;
}

#[tokio::test]
async fn profiles_and_assignments_have_their_rules() {
    let world = World::new().await;
    let (root, admin) = (&world.server.api, &world.admin.api);
    let default = root.get("/quota-profiles").await.data()[0].clone();
    assert_eq!((&default["is_default"], &default["tenant_id"]), (&json!(true), &Value::Null));
    let path = format!("/quota-profiles/{}", default["id"].as_str().unwrap());
    assert_eq!(outcome(root, "DELETE", &path, &Value::Null).await, (409, "IN_USE".to_owned()));
    assert_eq!(
        admin.patch(&path, &json!({ "max_gpu_count": 1 })).await.error(),
        (403, "FORBIDDEN")
    );
    root.patch(&path, &json!({ "max_concurrent_bunkers": 4 })).await.data();
    assert_eq!(world.rows().await[0].2, json!(4));
    assert_eq!(
        admin.post("/quota-profiles", &json!({ "name": "p", "platform": true })).await.status,
        403
    );

    let profile = world.profile("p", 1).await;
    let assignments = format!("/quota-profiles/{profile}/assignments");
    let target = |kind: &str, id: &str| json!({ "target_kind": kind, "target_id": id });
    let on_user = world.assign(&profile, "user", &world.user.id, "individual").await;
    let second = admin.post(&assignments, &target("user", &world.user.id)).await;
    assert_eq!((second.error(), second.fields()), ((409, "ALREADY_EXISTS"), vec!["target_id"]));
    let listed = admin.get(&assignments).await;
    assert_eq!(listed.data()[0]["id"], on_user.as_str());
    assert_eq!(
        outcome(admin, "DELETE", &format!("/quota-profiles/{profile}"), &Value::Null).await,
        (409, "IN_USE".to_owned())
    );

    let elsewhere = tenant(root, "elsewhere").await;
    let stranger = person(root, &elsewhere, "tenant_user", &[]).await;
    let mode = json!({ "target_kind": "user", "target_id": world.admin.id, "mode": "shared" });
    for (api, body, expected) in [
        (admin, target("user", &stranger.id), (404, "NOT_FOUND")),
        (root, target("user", &stranger.id), (422, "VALIDATION_ERROR")),
        (admin, target("group", &world.user.id), (422, "VALIDATION_ERROR")),
        (admin, target("tenant", &world.tenant), (403, "FORBIDDEN")),
        (admin, mode, (422, "VALIDATION_ERROR")),
    ] {
        let answer = api.post(&assignments, &body).await;
        assert_eq!(answer.error(), expected, "{body}");
    }
    // What holds for a whole tenant is not its own admin's to lift.
    world.assign(&profile, "tenant", &world.tenant, "shared").await;
    let lifted = admin
        .patch(&format!("/quota-profiles/{profile}"), &json!({ "max_concurrent_bunkers": null }))
        .await;
    assert_eq!(lifted.error(), (403, "FORBIDDEN"));
    let ids = root.get(&assignments).await.data().clone();
    let of_tenant = ids.as_array().unwrap().iter().find(|a| a["target_kind"] == "tenant").unwrap();
    let path = format!("{assignments}/{}", of_tenant["id"].as_str().unwrap());
    assert_eq!(outcome(admin, "DELETE", &path, &Value::Null).await.0, 403);
    root.done(Method::DELETE, &path, &Value::Null).await;
    world.server.stop().await;
}

#[tokio::test]
async fn usage_counts_what_runs_in_every_bucket_once() {
    let world = World::new().await;
    let _worker = world.server.worker().await;
    let group = make(&world.admin.api, "//v1/iam/groups", &json!({ "name": "g" })).await;
    let path = format!("//v1/iam/groups/{group}/members/{}", world.user.id);
    world.admin.api.done(Method::PUT, &path, &Value::Null).await;
    let (shared, each) = (world.profile("a", 5).await, world.profile("b", 5).await);
    world.assign(&shared, "group", &group, "shared").await;
    world.assign(&each, "user", &world.user.id, "individual").await;
    let bunker = world.user.api.running_bunker().await;
    let used = async || {
        let usage = world.user.api.get("/quota-profiles/usage").await;
        let rows = usage.data().as_array().unwrap().clone();
        let of = |row: &Value, resource: &str| row["resources"][resource]["current"].clone();
        let of_row = |row: &Value| json!([of(row, "concurrent_bunkers"), of(row, "memory_mb")]);
        rows.iter().map(of_row).collect::<Vec<_>>()
    };
    assert_eq!(used().await, [json!([1, 256]), json!([1, 256])]);
    world.user.api.delete(&format!("/bunkers/{bunker}")).await;
    world.user.api.bunker_becomes(&bunker, "terminated").await;
    let is_free = eventually(async || used().await == [json!([0, 0]), json!([0, 0])]);
    assert!(is_free.await, "{:?}", used().await);
    world.server.stop().await;
}

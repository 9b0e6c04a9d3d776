//! Identity: roles, reach, escalation, and that changes take effect.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    people::{Person, key_of, make, outcome, person, tenant},
    server::{Server, config},
};

/// Two partners; the first has two tenants, each with people.
struct World {
    dir: tempfile::TempDir,
    server: Server,
    partner: String,
    tenant: String,
    sibling: String,
    foreign: String,
    partner_admin: Person,
    tenant_admin: Person,
    viewer: Person,
    user: Person,
    stranger: Person,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        // Refusals are what is tested.
        config.rate_limits.strangers = None;
        let server = Server::start_with(config).await;
        let root = &server.api;
        let partner = make(root, "//v1/iam/partners", &json!({ "name": "p1" })).await;
        let other = make(root, "//v1/iam/partners", &json!({ "name": "p2" })).await;
        let of = async |partner: &str, name: &str| {
            make(root, "//v1/iam/tenants", &json!({ "name": name, "partner_id": partner })).await
        };
        let (tenant, sibling) = (of(&partner, "t1").await, of(&partner, "t2").await);
        let foreign = of(&other, "t3").await;
        let partner_admin = person(root, &tenant, "partner_admin", &[]).await;
        let tenant_admin = person(root, &tenant, "tenant_admin", &[]).await;
        let viewer = person(root, &tenant, "tenant_viewer", &[]).await;
        let user = person(root, &tenant, "tenant_user", &["scaibunker:create"]).await;
        let stranger = person(root, &foreign, "tenant_admin", &[]).await;
        Self {
            dir,
            server,
            partner,
            tenant,
            sibling,
            foreign,
            partner_admin,
            tenant_admin,
            viewer,
            user,
            stranger,
        }
    }

    fn root(&self) -> &Api {
        &self.server.api
    }

    async fn end(self) {
        self.server.stop().await;
        drop(self.dir);
    }
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|object| object["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn everyone_is_told_who_they_are() {
    let world = World::new().await;
    let me = world.root().get("//v1/iam/me").await.data().clone();
    assert_eq!(
        (&me["user"]["role"], &me["tenant"]["name"]),
        (&json!("super_admin"), &json!("default"))
    );
    assert!(me["api_key_id"].as_str().unwrap().starts_with("key_"));
    let group = json!({ "name": "g", "tenant_id": world.tenant });
    let parent = make(world.root(), "//v1/iam/groups", &group).await;
    let group = json!({ "name": "h", "tenant_id": world.tenant, "parent_id": parent });
    let child = make(world.root(), "//v1/iam/groups", &group).await;
    let path = format!("//v1/iam/groups/{child}/members/{}", world.user.id);
    world.root().done(Method::PUT, &path, &Value::Null).await;
    let me = world.user.api.get("//v1/iam/me").await.data().clone();
    assert_eq!(me["permissions"], json!(["scaibunker:create"]));
    assert_eq!(me["group_ids"], json!([parent, child]), "nested groups are expanded");
    assert_eq!(
        world.partner_admin.api.get("//v1/iam/me").await.data()["permissions"]
            .as_array()
            .unwrap()
            .len(),
        15
    );
    world.end().await;
}

#[tokio::test]
async fn roles_and_reach_decide_on_every_route() {
    let world = World::new().await;
    let (root, t, sibling) = (world.root(), &world.tenant, &world.sibling);
    let role = make(
        root,
        "//v1/iam/custom-roles",
        &json!({ "name": "r", "tenant_id": t, "module_permissions": ["scaibunker:shell"] }),
    )
    .await;
    let group = make(root, "//v1/iam/groups", &json!({ "name": "g", "tenant_id": t })).await;
    let profile = make(root, "/quota-profiles", &json!({ "name": "q", "tenant_id": t })).await;
    let user = &world.user.id;
    let keys = root.get(&format!("//v1/iam/api-keys?user_id={user}")).await;
    let key = ids(keys.data())[0].to_owned();
    let named = json!({ "name": "x" });
    // Who gets what: partner admin, tenant admin, viewer, user, admin of another partner's tenant.
    let cases: Vec<(&str, String, Value, [u16; 5])> = vec![
        ("GET", "//v1/iam/partners".into(), Value::Null, [200; 5]),
        (
            "GET",
            format!("//v1/iam/partners/{}", world.partner),
            Value::Null,
            [200, 200, 200, 200, 404],
        ),
        ("POST", "//v1/iam/partners".into(), named.clone(), [403; 5]),
        ("PATCH", format!("//v1/iam/partners/{}", world.partner), named.clone(), [403; 5]),
        ("DELETE", format!("//v1/iam/partners/{}", world.partner), Value::Null, [403; 5]),
        ("GET", "//v1/iam/tenants".into(), Value::Null, [200; 5]),
        ("GET", format!("//v1/iam/tenants/{t}"), Value::Null, [200, 200, 200, 200, 404]),
        ("GET", format!("//v1/iam/tenants/{sibling}"), Value::Null, [200, 404, 404, 404, 404]),
        (
            "GET",
            format!("//v1/iam/tenants/{}", world.foreign),
            Value::Null,
            [404, 404, 404, 404, 200],
        ),
        ("PATCH", format!("//v1/iam/tenants/{sibling}"), named.clone(), [200, 403, 403, 403, 403]),
        (
            "PATCH",
            format!("//v1/iam/tenants/{}", world.foreign),
            named.clone(),
            [404, 403, 403, 403, 403],
        ),
        ("DELETE", format!("//v1/iam/tenants/{t}"), Value::Null, [409, 403, 403, 403, 403]),
        ("GET", "//v1/iam/users".into(), Value::Null, [200; 5]),
        ("GET", format!("//v1/iam/users/{user}"), Value::Null, [200, 200, 200, 200, 404]),
        (
            "GET",
            format!("//v1/iam/users/{}", world.viewer.id),
            Value::Null,
            [200, 200, 200, 404, 404],
        ),
        ("PATCH", format!("//v1/iam/users/{user}"), named.clone(), [200, 200, 403, 403, 404]),
        (
            "PUT",
            format!("//v1/users/{user}/module-permissions"),
            json!({ "module_permissions": ["scaibunker:create"] }),
            [200, 200, 403, 403, 404],
        ),
        (
            "POST",
            "//v1/iam/users".into(),
            json!({ "name": "n", "tenant_id": t }),
            [201, 201, 403, 403, 404],
        ),
        ("GET", "//v1/iam/groups".into(), Value::Null, [200, 200, 200, 403, 200]),
        ("GET", format!("//v1/iam/groups/{group}"), Value::Null, [200, 200, 200, 403, 404]),
        ("PATCH", format!("//v1/iam/groups/{group}"), json!({}), [200, 200, 403, 403, 404]),
        ("GET", format!("//v1/iam/groups/{group}/members"), Value::Null, [200, 200, 200, 403, 404]),
        (
            "PUT",
            format!("//v1/iam/groups/{group}/members/{user}"),
            Value::Null,
            [204, 204, 403, 403, 404],
        ),
        ("GET", "//v1/iam/custom-roles".into(), Value::Null, [200, 200, 200, 403, 200]),
        ("GET", format!("//v1/iam/custom-roles/{role}"), Value::Null, [200, 200, 200, 403, 404]),
        (
            "PATCH",
            format!("//v1/iam/custom-roles/{role}"),
            named.clone(),
            [200, 200, 403, 403, 404],
        ),
        ("GET", "//v1/iam/api-keys".into(), Value::Null, [200; 5]),
        ("GET", format!("//v1/iam/api-keys/{key}"), Value::Null, [200, 200, 200, 200, 404]),
        (
            "POST",
            "//v1/iam/api-keys".into(),
            json!({ "name": "k", "user_id": user }),
            [201, 201, 403, 201, 404],
        ),
        ("GET", "/quota-profiles".into(), Value::Null, [200, 200, 200, 403, 200]),
        ("GET", format!("/quota-profiles/{profile}"), Value::Null, [200, 200, 200, 403, 404]),
        (
            "PATCH",
            format!("/quota-profiles/{profile}"),
            json!({ "max_memory_mb": 9 }),
            [200, 200, 403, 403, 404],
        ),
        (
            "GET",
            format!("/quota-profiles/{profile}/assignments"),
            Value::Null,
            [200, 200, 200, 403, 404],
        ),
        ("GET", "/quota-profiles/usage".into(), Value::Null, [200; 5]),
        ("DELETE", format!("//v1/iam/api-keys/{key}"), Value::Null, [204, 204, 403, 401, 404]),
    ];
    let people =
        [&world.partner_admin, &world.tenant_admin, &world.viewer, &world.user, &world.stranger];
    for (method, path, body, expected) in &cases {
        for (at, (person, status)) in people.iter().zip(expected).enumerate() {
            let found = outcome(&person.api, method, path, body).await;
            assert_eq!(found.0, *status, "{method} {path} by {at}: {found:?}");
        }
        assert_eq!(outcome(&root.with_key(""), method, path, body).await.0, 401, "{method} {path}");
    }
    world.end().await;
}

#[tokio::test]
async fn nobody_gets_more_than_who_gives_it() {
    let world = World::new().await;
    let (root, t) = (world.root(), &world.tenant);
    let admin = &world.tenant_admin;
    let super_admin =
        root.get("//v1/iam/me").await.data()["user"]["id"].as_str().unwrap().to_owned();
    let strong = make(
        root,
        "//v1/iam/custom-roles",
        &json!({ "name": "strong", "tenant_id": t, "module_permissions": ["scaibunker:admin"] }),
    )
    .await;
    let weak = make(
        root,
        "//v1/iam/custom-roles",
        &json!({ "name": "weak", "tenant_id": t, "module_permissions": ["scaibunker:shell"] }),
    )
    .await;
    // A partner's viewer with a role of its home tenant: what is added to it reaches all tenants.
    make(
        root,
        "//v1/iam/users",
        &json!({ "name": "pv", "tenant_id": t, "role": "partner_viewer",
        "custom_role_ids": [weak] }),
    )
    .await;
    let grant = |permission: &str| json!({ "module_permissions": [permission] });
    let user = |more: Value| {
        let mut body = json!({ "name": "e", "tenant_id": t });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let of_user = format!("//v1/users/{}/module-permissions", world.user.id);
    let own = format!("//v1/iam/users/{}", admin.id);
    for (who, method, path, body, status) in [
        (admin, "PUT", &of_user, grant("scaibunker:admin"), 403),
        (admin, "PUT", &of_user, grant("scaibunker:admin:platform"), 403),
        (admin, "PATCH", &own, json!({ "role": "super_admin" }), 403),
        (admin, "PATCH", &own, json!({ "role": "partner_admin" }), 403),
        (admin, "PATCH", &own, json!({ "custom_role_ids": [strong] }), 403),
        (admin, "POST", &"//v1/iam/users".to_owned(), user(json!({ "role": "super_admin" })), 403),
        (
            admin,
            "POST",
            &"//v1/iam/users".to_owned(),
            user(json!({ "role": "partner_viewer" })),
            403,
        ),
        (
            admin,
            "POST",
            &"//v1/iam/users".to_owned(),
            user(json!({ "custom_role_ids": [strong] })),
            403,
        ),
        (
            admin,
            "PATCH",
            &format!("//v1/iam/users/{}", world.partner_admin.id),
            json!({ "oidc_subject": "mine" }),
            403,
        ),
        (admin, "DELETE", &format!("//v1/iam/users/{}", world.partner_admin.id), Value::Null, 403),
        (
            admin,
            "POST",
            &"//v1/iam/api-keys".to_owned(),
            json!({ "name": "k", "user_id": world.partner_admin.id }),
            403,
        ),
        (
            admin,
            "POST",
            &"//v1/iam/api-keys".to_owned(),
            json!({ "name": "k", "user_id": super_admin }),
            404,
        ),
        (
            admin,
            "PATCH",
            &format!("//v1/iam/custom-roles/{strong}"),
            json!({ "module_permissions": ["scaibunker:create"] }),
            403,
        ),
        (
            admin,
            "PATCH",
            &format!("//v1/iam/custom-roles/{weak}"),
            json!({ "module_permissions": ["scaibunker:root"] }),
            403,
        ),
        (
            admin,
            "POST",
            &"//v1/iam/custom-roles".to_owned(),
            json!({ "name": "z", "module_permissions": ["scaibunker:admin"] }),
            403,
        ),
        (&world.partner_admin, "PUT", &of_user, grant("scaibunker:admin"), 403),
        (
            &world.partner_admin,
            "POST",
            &"//v1/iam/custom-roles".to_owned(),
            json!({ "name": "z", "module_permissions": ["scaibunker:admin"] }),
            403,
        ),
        (&world.partner_admin, "PUT", &of_user, grant("scaibunker:root"), 200),
        (
            &world.partner_admin,
            "PATCH",
            &format!("//v1/iam/custom-roles/{weak}"),
            json!({ "module_permissions": ["scaibunker:root"] }),
            200,
        ),
    ] {
        let found = outcome(&who.api, method, path, &body).await;
        assert_eq!(found.0, status, "{method} {path} {body}: {found:?}");
    }
    let reaching =
        person(root, t, "tenant_user", &["scaibunker:admin", "scaibunker:admin:tenant"]).await;
    assert_eq!(reaching.api.get(&format!("//v1/iam/tenants/{}", world.foreign)).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn credentials_end_within_five_seconds() {
    let world = World::new().await;
    let root = world.root();
    let me = "//v1/iam/me";
    let refused_soon = async |api: &Api, cause: &str| {
        let began = Instant::now();
        assert!(eventually(async || api.get(me).await.status == 401).await);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let answer = api.get(me).await;
        assert_eq!(answer.error(), (401, "UNAUTHORIZED"));
        let message = answer.json["error"]["message"].as_str().unwrap();
        assert!(message.contains(cause), "{message}");
    };
    let keys = root.get(&format!("//v1/iam/api-keys?user_id={}", world.user.id)).await;
    assert_eq!(world.user.api.get(me).await.status, 200);
    root.done(Method::DELETE, &format!("//v1/iam/api-keys/{}", ids(keys.data())[0]), &Value::Null)
        .await;
    refused_soon(&world.user.api, "revoked").await;

    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let body = json!({ "name": "brief", "user_id": world.user.id, "expires_at": soon });
    let key = root.post("//v1/iam/api-keys", &body).await.data()["key"].clone();
    let brief = root.with_key(key.as_str().unwrap());
    assert_eq!(brief.get(me).await.status, 200);
    refused_soon(&brief, "expired").await;

    let api = key_of(root, &world.user.id).await;
    let user = format!("//v1/iam/users/{}", world.user.id);
    root.patch(&user, &json!({ "status": "suspended" })).await;
    refused_soon(&api, "user is suspended").await;
    root.patch(&user, &json!({ "status": "active" })).await;
    assert_eq!(api.get(me).await.status, 200);
    let home = format!("//v1/iam/tenants/{}", world.tenant);
    root.patch(&home, &json!({ "status": "suspended" })).await;
    refused_soon(&api, "tenant is suspended").await;
    root.patch(&home, &json!({ "status": "active" })).await;
    root.done(Method::DELETE, &user, &Value::Null).await;
    refused_soon(&api, "revoked").await;
    assert_eq!(root.get(&user).await.error(), (404, "NOT_FOUND"));
    for key in ["sgk_", "sgk_0", "x", "a.b.c"] {
        assert_eq!(root.with_key(key).get(me).await.status, 401, "{key}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_permission_that_is_taken_away_is_gone_at_once() {
    let world = World::new().await;
    let role = make(world.root(), "//v1/iam/custom-roles",
        &json!({ "name": "r", "tenant_id": world.tenant, "module_permissions": ["scaibunker:admin:tenant"] })).await;
    let user = format!("//v1/iam/users/{}", world.user.id);
    let groups = async || world.user.api.get("//v1/iam/groups").await.status;
    assert_eq!(groups().await, 403);
    world.root().patch(&user, &json!({ "custom_role_ids": [role] })).await.data();
    assert_eq!(groups().await, 200);
    let path = format!("//v1/iam/custom-roles/{role}");
    let refused = world.root().delete(&path).await;
    assert_eq!(refused.error(), (409, "IN_USE"));
    world.root().patch(&path, &json!({ "module_permissions": [] })).await.data();
    assert_eq!(groups().await, 403);
    world.root().patch(&user, &json!({ "custom_role_ids": [] })).await.data();
    world.root().done(Method::DELETE, &path, &Value::Null).await;
    world.end().await;
}

#[tokio::test]
async fn the_last_super_admin_stays() {
    let world = World::new().await;
    let root = world.root();
    let me = root.get("//v1/iam/me").await.data().clone();
    let user = format!("//v1/iam/users/{}", me["user"]["id"].as_str().unwrap());
    let home = me["tenant"]["id"].as_str().unwrap();
    for body in [json!({ "role": "tenant_user" }), json!({ "status": "suspended" })] {
        assert_eq!(root.patch(&user, &body).await.error(), (409, "IN_USE"), "{body}");
    }
    assert_eq!(outcome(root, "DELETE", &user, &Value::Null).await.0, 409);
    let suspended = json!({ "status": "suspended" });
    assert_eq!(
        root.patch(&format!("//v1/iam/tenants/{home}"), &suspended).await.error(),
        (409, "IN_USE")
    );
    let second = person(root, &world.tenant, "super_admin", &[]).await;
    let home_of_second = format!("//v1/iam/tenants/{}", world.tenant);
    assert_eq!(world.partner_admin.api.patch(&home_of_second, &suspended).await.status, 403);
    root.patch(&user, &json!({ "role": "tenant_user" })).await.data();
    assert_eq!(root.get("/workers").await.status, 403);
    assert_eq!(second.api.get("/workers").await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn what_is_used_cannot_be_deleted_and_names_are_unique() {
    let world = World::new().await;
    let (root, t) = (world.root(), &world.tenant);
    let conflict = root.post("//v1/iam/partners", &json!({ "name": "p1" })).await;
    assert_eq!((conflict.error(), conflict.fields()), ((409, "ALREADY_EXISTS"), vec!["name"]));
    let parent = make(root, "//v1/iam/groups", &json!({ "name": "a", "tenant_id": t })).await;
    let child =
        make(root, "//v1/iam/groups", &json!({ "name": "b", "tenant_id": t, "parent_id": parent }))
            .await;
    let again = root.post("//v1/iam/groups", &json!({ "name": "b", "tenant_id": t })).await;
    assert_eq!((again.error(), again.fields()), ((409, "ALREADY_EXISTS"), vec!["name"]));
    let renamed = root.patch(&format!("//v1/iam/groups/{child}"), &json!({ "name": "a" })).await;
    assert_eq!((renamed.error(), renamed.fields()), ((409, "ALREADY_EXISTS"), vec!["name"]));
    let cycle =
        root.patch(&format!("//v1/iam/groups/{parent}"), &json!({ "parent_id": child })).await;
    assert_eq!((cycle.error(), cycle.fields()), ((422, "VALIDATION_ERROR"), vec!["parent_id"]));
    let elsewhere =
        make(root, "//v1/iam/groups", &json!({ "name": "a", "tenant_id": world.foreign })).await;
    let moved =
        root.patch(&format!("//v1/iam/groups/{child}"), &json!({ "parent_id": elsewhere })).await;
    assert_eq!(moved.fields(), ["parent_id"]);
    for path in [
        format!("//v1/iam/groups/{parent}"),
        format!("//v1/iam/tenants/{t}"),
        format!("//v1/iam/partners/{}", world.partner),
    ] {
        assert_eq!(
            outcome(root, "DELETE", &path, &Value::Null).await,
            (409, "IN_USE".to_owned()),
            "{path}"
        );
    }
    let subject = json!({ "oidc_subject": "s" });
    root.patch(&format!("//v1/iam/users/{}", world.user.id), &subject).await.data();
    let taken = root.patch(&format!("//v1/iam/users/{}", world.viewer.id), &subject).await;
    assert_eq!((taken.error(), taken.fields()), ((409, "ALREADY_EXISTS"), vec!["oidc_subject"]));
    let bunker = {
        let _worker = world.server.worker().await;
        let id = world.user.api.running_bunker().await;
        let path = format!("//v1/iam/users/{}", world.user.id);
        assert_eq!(outcome(root, "DELETE", &path, &Value::Null).await, (409, "IN_USE".to_owned()));
        world.user.api.delete(&format!("/bunkers/{id}")).await;
        world.user.api.bunker_becomes(&id, "terminated").await;
        root.done(Method::DELETE, &path, &Value::Null).await;
        id
    };
    assert_eq!(
        root.get(&format!("/bunkers/{bunker}")).await.status,
        200,
        "its bunkers stay on record"
    );
    let empty = tenant(root, "empty").await;
    root.done(Method::DELETE, &format!("//v1/iam/tenants/{empty}"), &Value::Null).await;
    assert_eq!(root.get(&format!("//v1/iam/tenants/{empty}")).await.status, 404);
    world.end().await;
}

#[tokio::test]
async fn creates_can_be_repeated() {
    let world = World::new().await;
    let root = world.root();
    let again = [("idempotency-key", "k1")];
    let post = async |path: &str, key: &[(&str, &str)], body: Value| {
        root.call(Method::POST, path, key, body.to_string()).await
    };
    let first = post("//v1/iam/partners", &again, json!({ "name": "new" })).await;
    let second = post("//v1/iam/partners", &again, json!({ "name": "new" })).await;
    assert_eq!((second.status, first.data()), (http::StatusCode::CREATED, second.data()));
    for (path, body) in [
        ("//v1/iam/partners", json!({ "name": "other" })),
        ("//v1/iam/tenants", json!({ "name": "new" })),
    ] {
        let other = post(path, &again, body).await;
        assert_eq!(other.error(), (409, "IDEMPOTENCY_CONFLICT"), "{path}");
    }
    let key = [("idempotency-key", "k2")];
    let first = post("//v1/iam/api-keys", &key, json!({ "name": "k" })).await;
    let second = post("//v1/iam/api-keys", &key, json!({ "name": "k" })).await;
    assert!(first.data()["key"].as_str().unwrap().starts_with("sgk_"));
    assert!(second.data()["key"].is_null(), "a key is told once");
    assert_eq!(first.data()["id"], second.data()["id"]);
    let bodies = (0..8)
        .map(|_| post("//v1/iam/users", &[("idempotency-key", "k3")], json!({ "name": "u" })));
    let answers = futures_util::future::join_all(bodies).await;
    let made: std::collections::BTreeSet<_> =
        answers.iter().map(|a| a.data()["id"].as_str().unwrap()).collect();
    assert_eq!(made.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_while_others_insert() {
    let world = World::new().await;
    let root = world.root();
    let group = async |name: String| make(root, "//v1/iam/groups", &json!({ "name": name })).await;
    let mut before = Vec::new();
    for number in 0..20 {
        before.push(group(format!("old{number}")).await);
    }
    let inserting = async {
        for number in 0..20 {
            group(format!("new{number}")).await;
        }
    };
    let reading = async {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = root.get(&format!("//v1/iam/groups?limit=3{cursor}")).await;
            seen.extend(ids(page.data()).into_iter().map(str::to_owned));
            match page.json["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return seen,
            }
        }
    };
    let (seen, ()) = tokio::join!(reading, inserting);
    let found: Vec<_> = seen.iter().filter(|id| before.contains(id)).collect();
    assert_eq!(found, before.iter().rev().collect::<Vec<_>>());
    let unique: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len());
    world.end().await;
}

#[tokio::test]
async fn a_use_of_a_key_is_noted() {
    let world = World::new().await;
    let path = format!("//v1/iam/api-keys?user_id={}", world.user.id);
    world.user.api.get("//v1/iam/me").await;
    let noted =
        eventually(async || !world.root().get(&path).await.data()[0]["last_used_at"].is_null());
    assert!(noted.await);
    world.end().await;
}

#[tokio::test]
async fn a_key_revoked_at_another_controller_ends_within_five_seconds() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let database = format!("sqlite:{}", one.path().join("shared.db").display());
    let sharing = |dir: &std::path::Path| {
        let mut config = config(dir);
        config.database = Some(database.parse().unwrap());
        config
    };
    let first = Server::start_with(sharing(one.path())).await;
    std::fs::copy(one.path().join("admin.key"), two.path().join("admin.key")).unwrap();
    let second = Server::start_with(sharing(two.path())).await;
    let home = tenant(&first.api, "t").await;
    let user = person(&first.api, &home, "tenant_user", &[]).await;
    let keys = first.api.get(&format!("//v1/iam/api-keys?user_id={}", user.id)).await;
    let key = format!("//v1/iam/api-keys/{}", ids(keys.data())[0]);
    let elsewhere = second.api.with_key(&user.api.key);
    assert_eq!(elsewhere.get("//v1/iam/me").await.status, 200);
    let began = Instant::now();
    first.api.done(Method::DELETE, &key, &Value::Null).await;
    assert!(eventually(async || elsewhere.get("//v1/iam/me").await.status == 401).await);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn bodies_are_checked() {
    let world = World::new().await;
    let root = world.root();
    for (path, body, fields) in [
        ("//v1/iam/partners", json!({ "name": "" }), vec!["name"]),
        ("//v1/iam/partners", json!({ "nam": "x" }), vec!["nam"]),
        ("//v1/iam/tenants", json!({ "name": "a\u{7}" }), vec!["name"]),
        ("//v1/iam/users", json!({ "name": "a", "email": "nobody" }), vec!["email"]),
        (
            "//v1/iam/users",
            json!({ "name": "a", "module_permissions": ["scaibunker:all"] }),
            vec!["module_permissions[0]"],
        ),
        ("//v1/iam/users", json!({ "name": "a", "role": "god" }), vec!["role"]),
        (
            "//v1/iam/users",
            json!({ "name": "a", "custom_role_ids": ["rol_01jd7y2m0k3v9c8x5w6t7r4q2z"] }),
            vec!["custom_role_ids"],
        ),
        (
            "//v1/iam/api-keys",
            json!({ "name": "k", "expires_at": "2020-01-01T00:00:00Z" }),
            vec!["expires_at"],
        ),
        (
            "//v1/iam/groups",
            json!({ "name": "g", "parent_id": "grp_01jd7y2m0k3v9c8x5w6t7r4q2z" }),
            vec!["parent_id"],
        ),
        ("/quota-profiles", json!({ "name": "q", "max_memory": 1 }), vec!["max_memory"]),
        ("/quota-profiles", json!({ "name": "q", "max_memory_mb": -1 }), vec!["max_memory_mb"]),
    ] {
        let answer = root.post(path, &body).await;
        assert_eq!(answer.error(), (422, "VALIDATION_ERROR"), "{path} {body}");
        assert_eq!(answer.fields(), fields, "{path} {body}");
    }
    let tenant = json!({ "name": "t", "partner_id": "prt_01jd7y2m0k3v9c8x5w6t7r4q2z" });
    assert_eq!(root.post("//v1/iam/tenants", &tenant).await.error(), (404, "NOT_FOUND"));
    world.end().await;
}

//! One tenant's objects do not exist for another: for every operation of the OpenAPI document.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    people::{make, person, tenant},
    server::Server,
};

/// What a tenant has, by the prefix of the ids.
struct Objects(BTreeMap<&'static str, String>);

impl Objects {
    /// One of everything, made by the platform's admin for a user of a new tenant.
    async fn make(admin: &Api) -> Self {
        let tenant = tenant(admin, "victim").await;
        let owner = person(admin, &tenant, "tenant_admin", &[]).await;
        let bunker = owner.api.running_bunker().await;
        let path = format!("/bunkers/{bunker}/exec");
        let detached = json!({ "command": "sleep", "detach": true });
        let exec = owner.api.post(&path, &detached).await.data()["exec_id"].clone();
        let snapshot = format!("/bunkers/{bunker}/snapshot?wait=true");
        let snapshot = make(&owner.api, &snapshot, &json!({})).await;
        let partner = admin.get(&format!("//v1/iam/tenants/{tenant}")).await;
        let group = make(&owner.api, "//v1/iam/groups", &json!({ "name": "g" })).await;
        let role = json!({ "name": "r", "module_permissions": [] });
        let role = make(&owner.api, "//v1/iam/custom-roles", &role).await;
        let key = make(&owner.api, "//v1/iam/api-keys", &json!({ "name": "spare" })).await;
        let image = json!({ "kind": "oci", "ref": "registry.test/victim:1" });
        let image = json!({ "name": "i", "source": image });
        let image = make(&owner.api, "/images", &image).await;
        let profile = make(&owner.api, "/quota-profiles", &json!({ "name": "p" })).await;
        let path = format!("/quota-profiles/{profile}/assignments");
        let assignment = json!({ "target_kind": "group", "target_id": group });
        let assignment = make(&owner.api, &path, &assignment).await;
        Self(BTreeMap::from([
            ("prt_", partner.data()["partner_id"].as_str().unwrap().to_owned()),
            ("ten_", tenant),
            ("usr_", owner.id),
            ("grp_", group),
            ("rol_", role),
            ("key_", key),
            ("img_", image),
            ("qpf_", profile),
            ("qas_", assignment),
            ("bnk_", bunker),
            ("exe_", exec.as_str().unwrap().to_owned()),
            ("snp_", snapshot),
        ]))
    }

    /// Everything about them that their owner can see.
    async fn shown(&self, admin: &Api) -> Vec<Value> {
        let id = |prefix| self.0[prefix].as_str();
        let mut shown = Vec::new();
        for path in [
            format!("//v1/iam/partners/{}", id("prt_")),
            format!("//v1/iam/tenants/{}", id("ten_")),
            format!("//v1/iam/users/{}", id("usr_")),
            format!("//v1/iam/groups/{}", id("grp_")),
            format!("//v1/iam/groups/{}/members", id("grp_")),
            format!("//v1/iam/custom-roles/{}", id("rol_")),
            format!("//v1/iam/api-keys/{}", id("key_")),
            format!("/images/{}", id("img_")),
            format!("/images/{}/cache", id("img_")),
            format!("/images/{}/scan", id("img_")),
            format!("/quota-profiles/{}", id("qpf_")),
            format!("/quota-profiles/{}/assignments", id("qpf_")),
            format!("/bunkers/{}", id("bnk_")),
            format!("/snapshots/{}", id("snp_")),
            format!("/bunkers/{}/execs/{}", id("bnk_"), id("exe_")),
            format!("/bunkers/{}/files/?list=true", id("bnk_")),
            format!("//v1/iam/groups?tenant_id={}", id("ten_")),
            format!("//v1/iam/users?tenant_id={}", id("ten_")),
        ] {
            let mut object = admin.get(&path).await.data().clone();
            // Looking at its files is an activity of the bunker.
            object.as_object_mut().map(|fields| fields.remove("last_active_at"));
            shown.push(object);
        }
        shown
    }
}

/// A body that the operation takes.
fn body_of(operation: &str, objects: &Objects) -> Value {
    match operation {
        "run_exec" => json!({ "command": "true" }),
        "write_exec_input" => json!({ "data": "x" }),
        "signal_exec" => json!({ "signal": "SIGKILL" }),
        "fork_bunker" => json!({ "count": 1 }),
        "make_directory" => json!({ "path": "/made" }),
        "move_file" => json!({ "from": "/a", "to": "/b" }),
        "commit_upload" => {
            json!({ "key": format!("files/{}/x", objects.0["bnk_"]), "dest_path": "/x" })
        }
        "set_module_permissions" => json!({ "module_permissions": [] }),
        "create_quota_assignment" => {
            json!({ "target_kind": "user", "target_id": objects.0["usr_"] })
        }
        "update_partner"
        | "update_tenant"
        | "update_user"
        | "update_group"
        | "update_custom_role"
        | "update_quota_profile"
        | "update_image"
        | "update_snapshot"
        | "update_bunker" => {
            json!({ "name": "taken" })
        }
        _ => json!({}),
    }
}

/// Each operation on somebody's object: method, path with the victim's ids, operation id, and the
/// permission that it needs.
fn attacks(document: &Value, objects: &Objects) -> Vec<(Method, String, String, Option<String>)> {
    let mut attacks = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, spec) in item.as_object().unwrap() {
            let is_callers = spec["security"]
                .as_array()
                .is_some_and(|schemes| schemes.iter().any(|scheme| !scheme["caller"].is_null()));
            let parameters = spec["parameters"].as_array().into_iter().flatten();
            let mut target = path.clone();
            let mut is_victims = false;
            for parameter in parameters.filter(|parameter| parameter["in"] == "path") {
                let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
                let pattern = parameter["schema"]["pattern"].as_str().unwrap_or("^x[");
                let prefix = pattern[1..].split('[').next().unwrap();
                let value = objects.0.get(prefix);
                is_victims |= value.is_some();
                target = target.replace(&name, value.map_or("x", String::as_str));
            }
            if is_callers && is_victims {
                let operation = spec["operationId"].as_str().unwrap().to_owned();
                if operation == "watch_files" {
                    target.push_str("?path=/");
                }
                let permission = spec["x-permission"].as_str().map(str::to_owned);
                let method = method.to_uppercase().parse().unwrap();
                attacks.push((method, target, operation, permission));
            }
        }
    }
    attacks
}

#[tokio::test]
async fn no_operation_reaches_another_tenants_objects() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    *worker.images.is_slow.lock().unwrap() = true;
    let admin = &server.api;
    let objects = Objects::make(admin).await;
    let image = format!("/images/{}", objects.0["img_"]);
    // From then on nothing happens to it by itself.
    assert!(eventually(async || admin.get(&image).await.data()["status"] == "baking").await);
    let document = admin.raw(Method::GET, "//openapi.json", &[], "").await;
    let document: Value = serde_json::from_slice(document.body()).unwrap();
    let attacks = attacks(&document, &objects);
    assert!(attacks.len() > 40, "{}", attacks.len());
    let before = (objects.shown(admin).await, worker.held().clone());

    let tenant_elsewhere = tenant(admin, "attacker").await;
    let tenant_admin = person(admin, &tenant_elsewhere, "tenant_admin", &[]).await;
    let viewer = person(admin, &tenant_elsewhere, "tenant_viewer", &[]).await;
    let partner = make(admin, "//v1/iam/partners", &json!({ "name": "other" })).await;
    let body = json!({ "name": "of the other partner", "partner_id": partner });
    let tenant_of_partner = make(admin, "//v1/iam/tenants", &body).await;
    let partner_admin = person(admin, &tenant_of_partner, "partner_admin", &[]).await;
    for attacker in [&tenant_admin, &partner_admin, &viewer] {
        let me = attacker.api.get("//v1/iam/me").await.data().clone();
        let held = me["permissions"].as_array().unwrap().clone();
        let is_viewer = me["user"]["role"] == "tenant_viewer";
        for (method, path, operation, permission) in &attacks {
            // An own partner is no stranger's.
            if operation.ends_with("_partner") && me["tenant"]["partner_id"] == objects.0["prt_"] {
                continue;
            }
            let body = body_of(operation, &objects).to_string();
            let headers = [
                ("content-type", "application/json"),
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ];
            let headers = if operation == "open_shell" { &headers[1..] } else { &headers[..1] };
            let answer = attacker.api.raw(method.clone(), &format!("/{path}"), headers, body).await;
            let lacks = |key: &String| !held.iter().any(|held| held == key) && !is_viewer;
            let lacks_permission = permission.as_ref().is_some_and(lacks);
            let status = answer.status().as_u16();
            let what = format!("{method} {path} as {}: {answer:?}", me["user"]["role"]);
            // Without the permission or the reach the answer is the same for every id.
            let is_platforms = operation.ends_with("_partner");
            let may_be_told = lacks_permission || is_viewer || is_platforms;
            let expected = status == 404 || status == 403 && may_be_told;
            assert!(expected, "{what}");
            let text = String::from_utf8_lossy(answer.body());
            assert!(!text.contains("victim"), "{what}");
        }
        for list in [
            "//v1/iam/tenants",
            "//v1/iam/users",
            "//v1/iam/groups",
            "//v1/iam/api-keys",
            "//v1/iam/custom-roles",
            "//v1/audit-log",
            "/bunkers",
            "/images",
            "/availability-groups",
            "/quota-profiles",
            "/quota-profiles/usage",
        ] {
            let answer = attacker.api.raw(Method::GET, list, &[], "").await;
            let text = String::from_utf8_lossy(answer.body()).into_owned();
            for prefix in ["ten_", "usr_", "grp_", "rol_", "key_", "qpf_", "bnk_", "img_"] {
                let own_calls = list == "//v1/audit-log";
                assert!(own_calls || !text.contains(&objects.0[prefix]), "{list}: {text}");
            }
        }
    }
    // Nor is anything made in the victim's name.
    let of_victim = [
        ("//v1/iam/users", json!({ "name": "x", "tenant_id": objects.0["ten_"] })),
        ("//v1/iam/groups", json!({ "name": "x", "tenant_id": objects.0["ten_"] })),
        ("//v1/iam/groups", json!({ "name": "x", "parent_id": objects.0["grp_"] })),
        ("//v1/iam/api-keys", json!({ "name": "x", "user_id": objects.0["usr_"] })),
        (
            "//v1/iam/custom-roles",
            json!({ "name": "x", "module_permissions": [], "tenant_id": objects.0["ten_"] }),
        ),
        ("/quota-profiles", json!({ "name": "x", "tenant_id": objects.0["ten_"] })),
        ("//v1/iam/users", json!({ "name": "x", "custom_role_ids": [objects.0["rol_"]] })),
    ];
    for attacker in [&tenant_admin, &partner_admin] {
        for (path, body) in &of_victim {
            let answer = attacker.api.post(path, body).await;
            let status = answer.status.as_u16();
            assert!(status == 404 || status == 422, "{path} {body}: {}", answer.json);
        }
    }
    assert_eq!((objects.shown(admin).await, worker.held().clone()), before);
    server.stop().await;
}

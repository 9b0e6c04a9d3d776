//! Tenants, users, groups, roles, partners and keys.

use serde_json::{Value, json};

use crate::{
    fake_controller::FakeController,
    fake_objects::{NEW_KEY, OWN_TENANT, make},
    program::{Ended, run},
};

/// The one object of a kind with this name.
fn named(controller: &FakeController, kind: &str, name: &str) -> Value {
    let seen = controller.seen();
    seen.records[kind].iter().find(|object| object["name"] == name).unwrap().clone()
}

fn add(controller: &FakeController, kind: &str, body: Value) -> String {
    let mut id = String::new();
    controller.seen.send_modify(|seen| {
        id = make(seen, kind, body).unwrap()["id"].as_str().unwrap().to_owned();
    });
    id
}

async fn done(controller: &FakeController, args: &[&str]) -> Ended {
    let ended = run(controller, args).await;
    assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
    ended
}

#[tokio::test]
async fn tenants_are_made_listed_changed_and_removed_by_name() {
    let controller = FakeController::start().await;
    done(&controller, &["partners", "create", "reseller"]).await;
    let partner = named(&controller, "partners", "reseller")["id"].clone();
    for name in ["a", "b", "c"] {
        let made = done(&controller, &["tenants", "create", name, "--partner", "reseller"]).await;
        let tenant = named(&controller, "tenants", name);
        assert_eq!(made.text(), format!("{}\n", tenant["id"].as_str().unwrap()));
        assert_eq!(tenant["partner_id"], partner);
    }
    add(&controller, "tenants", json!({"name": "elsewhere"}));
    let all = done(&controller, &["tenants", "ls", "--partner", "reseller", "--json"]).await.json();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|tenant| &tenant["name"]).collect();
    assert_eq!(names, ["c", "b", "a"], "all pages, newest first");
    let table = done(&controller, &["tenants", "ls"]).await;
    assert!(table.text().starts_with("ID") && table.text().contains("elsewhere"));

    let set = ["tenants", "set", "a", "--name", "z", "--suspend", "--json"];
    let changed = done(&controller, &set).await.json();
    assert_eq!((&changed["name"], &changed["status"]), (&"z".into(), &"suspended".into()));
    let shown = done(&controller, &["tenants", "show", "z"]).await;
    assert!(
        shown.text().contains("suspended") && shown.text().contains("2026-01-02T03:04:05.678Z")
    );

    let removed = done(&controller, &["tenants", "rm", "z", "b", "z"]).await;
    assert_eq!(removed.text().lines().count(), 2);
    assert_eq!(controller.seen().records["tenants"].len(), 2);
}

#[tokio::test]
async fn names_that_nobody_or_several_have_are_refused() {
    let controller = FakeController::start().await;
    let twins = [0, 1].map(|_| add(&controller, "users", json!({"name": "eve"})));
    let refused = run(&controller, &["users", "rm", "eve"]).await;
    assert_eq!((refused.code, refused.text()), (1, ""));
    for part in [&twins[0], &twins[1], "more than one user"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let unknown = run(&controller, &["keys", "ls", "--user", "mallory"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("scaibunker users ls"), "{}", unknown.stderr);
    assert_eq!(controller.seen().records["users"].len(), 2);
    // An id needs no list, and what is not there is the server's to say.
    let gone =
        run(&controller, &["users", "rm", "usr_00000000000000000000000000", &twins[0]]).await;
    assert!(gone.stderr.contains("NOT_FOUND") && gone.stderr.contains("[req_"), "{}", gone.stderr);
}

#[tokio::test]
async fn users_have_roles_and_details() {
    let controller = FakeController::start().await;
    add(&controller, "tenants", json!({"name": "acme"}));
    let role = ["roles", "create", "runner", "execute", "scaibunker:files", "--tenant", "acme"];
    done(&controller, &role).await;
    let role = named(&controller, "custom-roles", "runner");
    assert_eq!(role["module_permissions"], json!(["scaibunker:execute", "scaibunker:files"]));
    let args = [
        "users",
        "create",
        "bob",
        "--tenant",
        "acme",
        "--role",
        "tenant_viewer",
        "--email",
        "bob@a.example",
        "--oidc-subject",
        "sub-1",
        "--custom-role",
        "runner",
        "--grant",
        "shell",
    ];
    done(&controller, &args).await;
    let bob = named(&controller, "users", "bob");
    assert_eq!(bob["tenant_id"], named(&controller, "tenants", "acme")["id"]);
    assert_eq!((&bob["role"], &bob["oidc_subject"]), (&"tenant_viewer".into(), &"sub-1".into()));
    assert_eq!(bob["custom_role_ids"], json!([role["id"]]));
    assert_eq!(bob["module_permissions"], json!(["scaibunker:shell"]));

    let set = [
        "users",
        "set",
        "bob@a.example",
        "--role",
        "tenant_user",
        "--no-email",
        "--no-custom-roles",
        "--suspend",
        "--json",
    ];
    let bob = done(&controller, &set).await.json();
    assert_eq!((&bob["role"], &bob["status"]), (&"tenant_user".into(), &"suspended".into()));
    assert_eq!((&bob["email"], &bob["custom_role_ids"]), (&Value::Null, &json!([])));
    assert_eq!(bob["oidc_subject"], "sub-1", "what is not named stays");

    done(&controller, &["roles", "set", "runner", "root", "--name", "r"]).await;
    let role = named(&controller, "custom-roles", "r");
    assert_eq!(role["module_permissions"], json!(["scaibunker:root"]));
}

#[tokio::test]
async fn grants_add_and_revokes_take_away() {
    let controller = FakeController::start().await;
    let body = json!({"name": "bob", "module_permissions": ["scaibunker:create"]});
    add(&controller, "users", body);
    let granted = |args: &'static [&'static str]| {
        let controller = controller.clone();
        async move {
            let user = done(&controller, args).await.json();
            user["module_permissions"].clone()
        }
    };
    assert_eq!(
        granted(&["users", "grant", "bob", "execute", "create", "execute", "--json"]).await,
        json!(["scaibunker:create", "scaibunker:execute"])
    );
    assert_eq!(
        granted(&["users", "revoke", "bob", "scaibunker:create", "root", "--json"]).await,
        json!(["scaibunker:execute"])
    );
    let wrong = run(&controller, &["users", "grant", "bob", "fly"]).await;
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}

#[tokio::test]
async fn groups_nest_and_have_members() {
    let controller = FakeController::start().await;
    for name in ["ann", "bob", "cid"] {
        add(&controller, "users", json!({"name": name}));
    }
    done(&controller, &["groups", "create", "all"]).await;
    done(&controller, &["groups", "create", "some", "--parent", "all"]).await;
    let (all, some) = (named(&controller, "groups", "all"), named(&controller, "groups", "some"));
    assert_eq!(some["parent_id"], all["id"]);

    done(&controller, &["groups", "add", "some", "ann", "bob", "cid"]).await;
    done(&controller, &["groups", "remove", "some", "bob"]).await;
    let members = done(&controller, &["groups", "members", "some", "--json"]).await.json();
    assert_eq!((&members[0]["name"], &members[1]["name"]), (&"ann".into(), &"cid".into()));

    done(&controller, &["groups", "set", "some", "--no-parent"]).await;
    assert_eq!(named(&controller, "groups", "some")["parent_id"], Value::Null);
    done(&controller, &["groups", "set", "all", "--parent", "some", "--name", "every"]).await;
    assert_eq!(named(&controller, "groups", "every")["parent_id"], some["id"]);
    let shown = done(&controller, &["groups", "show", "every"]).await;
    assert!(shown.text().contains(some["id"].as_str().unwrap()), "{}", shown.text());
    for kind in ["groups", "tenants", "users", "roles"] {
        assert_eq!(run(&controller, &[kind, "set", "all"]).await.code, 2, "{kind}");
    }
}

#[tokio::test]
async fn a_new_key_is_all_that_standard_output_gets() {
    let controller = FakeController::start().await;
    let user = add(&controller, "users", json!({"name": "bob"}));
    let args = ["keys", "create", "ci", "--user", "bob", "--expires", "2030-01-01T00:00:00Z"];
    let made = done(&controller, &args).await;
    assert_eq!(made.text(), format!("{NEW_KEY}\n"));
    assert!(made.stderr.contains(&user) && made.stderr.contains("2030-01-01"), "{}", made.stderr);
    assert!(!made.stderr.contains(NEW_KEY));
    let quiet = done(&controller, &["keys", "create", "q", "-q", "--expires", "30d"]).await;
    assert_eq!((quiet.text(), quiet.stderr.as_str()), (format!("{NEW_KEY}\n").as_str(), ""));
    let end = named(&controller, "api-keys", "q")["expires_at"].as_str().unwrap().to_owned();
    let left = end.parse::<jiff::Timestamp>().unwrap().duration_since(jiff::Timestamp::now());
    assert!((2_591_000..=2_592_000).contains(&left.as_secs()), "{end}");
    let record = done(&controller, &["keys", "create", "j", "--json"]).await.json();
    assert_eq!((&record["key"], &record["name"]), (&NEW_KEY.into(), &"j".into()));

    let of_bob = done(&controller, &["keys", "ls", "--user", "bob"]).await;
    assert_eq!(of_bob.text().lines().count(), 2);
    assert!(of_bob.text().contains("sgk_made…") && of_bob.text().contains("active"));
    assert_eq!(run(&controller, &["keys", "create", "x", "--expires", "soon"]).await.code, 2);
}

#[tokio::test]
async fn a_revoked_key_leaves_its_name_to_the_next() {
    let controller = FakeController::start().await;
    let mut revoked = Vec::new();
    for _ in 0..2 {
        done(&controller, &["keys", "create", "ci"]).await;
        revoked.insert(0, done(&controller, &["keys", "rm", "ci"]).await.text().to_owned());
    }
    assert_eq!(done(&controller, &["keys", "ls", "-q"]).await.text(), revoked.concat());
    assert_eq!(done(&controller, &["keys", "ls"]).await.text().matches("revoked").count(), 2);
    let gone = run(&controller, &["keys", "rm", "ci"]).await;
    assert!(gone.stderr.contains("scaibunker keys ls"), "{}", gone.stderr);
}

#[tokio::test]
async fn names_are_looked_for_in_the_tenant_that_is_meant() {
    let controller = FakeController::start().await;
    let own = json!(OWN_TENANT);
    let other = json!(add(&controller, "tenants", json!({"name": "other"})));
    for tenant in [&own, &other] {
        add(&controller, "groups", json!({"name": "same", "tenant_id": tenant}));
        let role = json!({"name": "same", "tenant_id": tenant, "module_permissions": []});
        add(&controller, "custom-roles", role);
        add(&controller, "users", json!({"name": "eve", "tenant_id": tenant}));
    }
    let of = |kind: &str, tenant: &Value| {
        let seen = controller.seen();
        let fits = |object: &&Value| object["name"] != "new" && object["tenant_id"] == *tenant;
        seen.records[kind].iter().find(fits).unwrap()["id"].clone()
    };
    for (tenant, flags) in [(&own, &[][..]), (&other, &["--tenant", "other"])] {
        let group = [&["groups", "create", "new", "--parent", "same", "--json"], flags].concat();
        let group = done(&controller, &group).await.json();
        assert_eq!(group["parent_id"], of("groups", tenant));
        let user = [&["users", "create", "new", "--custom-role", "same", "--json"], flags].concat();
        let user = done(&controller, &user).await.json();
        assert_eq!(user["custom_role_ids"], json!([of("custom-roles", tenant)]));

        let (group, user) = (group["id"].as_str().unwrap(), user["id"].as_str().unwrap());
        let set = ["groups", "set", group, "--parent", "same", "--json"];
        assert_eq!(done(&controller, &set).await.json()["parent_id"], of("groups", tenant));
        let set = ["users", "set", user, "--custom-role", "same", "--json"];
        let set = done(&controller, &set).await.json();
        assert_eq!(set["custom_role_ids"], json!([of("custom-roles", tenant)]));
        done(&controller, &["groups", "add", group, "eve"]).await;
        let members = done(&controller, &["groups", "members", group, "--json"]).await.json();
        assert_eq!(members[0]["id"], of("users", tenant));
    }
}

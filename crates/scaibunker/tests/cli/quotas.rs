//! `quota`: usage, profiles and assignments.

use serde_json::{Value, json};

use crate::{
    fake_controller::FakeController,
    fake_objects::make,
    program::{client, ended, run},
    pseudo_terminal::PseudoTerminal,
};

fn profile(controller: &FakeController) -> Value {
    controller.seen().records["quota-profiles"][0].clone()
}

#[tokio::test]
async fn usage_is_a_block_a_profile_with_a_bar_where_there_is_a_cap() {
    let controller = FakeController::start().await;
    for args in [&["quota"][..], &["quota", "usage"]] {
        let mut in_utf8 = client(&controller, args);
        let shown = ended(in_utf8.env("LANG", "de_DE.UTF-8")).await;
        let lines: Vec<_> = shown.text().lines().collect();
        assert!(lines[0].starts_with("team  group:grp_1  (qpf_"), "{}", shown.text());
        assert_eq!(lines[1], "  bunkers  █████░░░░░  5/10     5 left");
        assert_eq!(lines[2], "  memory               512 MiB  no cap");
        assert!(lines[3].is_empty() && lines[4].starts_with("default  user:usr_1"));
        assert_eq!(lines[5], "  CPU cores  ██████████  2/2  0 left");
    }
    let plain = run(&controller, &["quota"]).await;
    assert!(plain.text().contains("#####.....  5/10") && plain.text().is_ascii());
    let usage = run(&controller, &["quota", "usage", "--json"]).await.json();
    assert_eq!(usage[0]["resources"]["concurrent_bunkers"]["headroom"], 5);
}

#[tokio::test]
async fn only_a_terminal_gets_colours() {
    let controller = FakeController::start().await;
    let mut coloured = PseudoTerminal::start(client(&controller, &["quota"]), 80, 24);
    assert_eq!(coloured.code().await, 0);
    coloured.shows("\u{1b}[38;5;10m#####.....").await;
    let mut command = client(&controller, &["quota"]);
    command.env("NO_COLOR", "1");
    let mut plain = PseudoTerminal::start(command, 80, 24);
    assert_eq!(plain.code().await, 0);
    plain.shows("0 left").await;
    assert!(!plain.text().contains('\u{1b}'), "{:?}", plain.text());
}

#[tokio::test]
async fn caps_are_set_changed_and_taken_away() {
    let controller = FakeController::start().await;
    let args = [
        "quota",
        "create",
        "small",
        "--max-concurrent-bunkers",
        "5",
        "--max-persistent-bunkers",
        "0",
        "--max-cpu",
        "4",
        "--max-memory",
        "8g",
        "--per-bunker-max-cpu",
        "500m",
        "--max-gpus",
        "none",
        "--platform",
    ];
    assert_eq!(run(&controller, &args).await.code, 0);
    let made = profile(&controller);
    for (cap, value) in [
        ("max_concurrent_bunkers", json!(5)),
        ("max_persistent_bunkers", json!(0)),
        ("max_cpu_millicores", json!(4000)),
        ("max_memory_mb", json!(8192)),
        ("per_bunker_max_cpu", json!(500)),
        ("max_disk_mb", Value::Null),
        ("max_gpu_count", Value::Null),
        ("platform", json!(true)),
    ] {
        assert_eq!(made[cap], value, "{cap}");
    }
    let set = ["quota", "set", "small", "--max-cpu", "none", "--max-disk", "1g", "--json"];
    let changed = run(&controller, &set).await.json();
    assert_eq!(
        (&changed["max_cpu_millicores"], &changed["max_disk_mb"]),
        (&Value::Null, &json!(1024))
    );
    assert_eq!(changed["max_memory_mb"], 8192, "what is not named stays");

    let table = run(&controller, &["quota", "profiles"]).await;
    assert!(
        table.text().contains("small") && table.text().contains("8192 MiB"),
        "{}",
        table.text()
    );
    let shown = run(&controller, &["quota", "show", "small"]).await;
    assert!(shown.text().contains("max CPU cores of one bunker  0.5"), "{}", shown.text());
    for change in [&["--max-cpu", "x"][..], &[]] {
        let set = [&["quota", "set", "small"][..], change].concat();
        assert_eq!(run(&controller, &set).await.code, 2, "{change:?}");
    }
    assert_eq!(run(&controller, &["quota", "rm", "small"]).await.code, 0);
    assert!(controller.seen().records["quota-profiles"].is_empty());
}

#[tokio::test]
async fn profiles_are_assigned_to_users_groups_and_tenants() {
    let controller = FakeController::start().await;
    controller.seen.send_modify(|seen| {
        for (kind, name) in
            [("quota-profiles", "p"), ("users", "bob"), ("groups", "team"), ("tenants", "acme")]
        {
            make(seen, kind, json!({"name": name})).unwrap();
        }
    });
    for target in
        [&["--user", "bob"][..], &["--group", "team", "--per-user"], &["--tenant", "acme"]]
    {
        let made = run(&controller, &[&["quota", "assign", "p"][..], target].concat()).await;
        assert!(made.text().starts_with("qas_"), "{}", made.stderr);
    }
    let listed = run(&controller, &["quota", "assignments", "p", "--json"]).await.json();
    let modes: Vec<_> = listed.as_array().unwrap().iter().map(|one| &one["mode"]).collect();
    assert_eq!(modes, ["individual", "per_user", "shared"]);
    let again = run(&controller, &["quota", "assign", "p", "--user", "bob"]).await;
    assert!(again.code == 1 && again.stderr.contains("ALREADY_EXISTS"), "{}", again.stderr);

    assert_eq!(run(&controller, &["quota", "unassign", "p", "--group", "team"]).await.code, 0);
    let id = listed[0]["id"].as_str().unwrap();
    assert_eq!(run(&controller, &["quota", "unassign", "p", id]).await.text(), format!("{id}\n"));
    assert_eq!(controller.seen().assignments.len(), 1);
    let none = run(&controller, &["quota", "unassign", "p", "--user", "bob"]).await;
    assert!(none.code == 1 && none.stderr.contains("quota assignments"), "{}", none.stderr);

    for args in [
        &["quota", "assign", "p"][..],
        &["quota", "assign", "p", "--user", "bob", "--group", "team"],
        &["quota", "assign", "p", "--user", "bob", "--per-user"],
        &["quota", "unassign", "p"],
        &["quota", "unassign", "p", id, "--user", "bob"],
    ] {
        assert_eq!(run(&controller, args).await.code, 2, "{args:?}");
    }
}

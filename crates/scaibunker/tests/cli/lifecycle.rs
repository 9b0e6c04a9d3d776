//! `pause`, `resume`, `set` and `events`.

use serde_json::{Value, json};

use crate::{fake_controller::FakeController, program::run};

#[tokio::test]
async fn bunkers_are_paused_and_resumed_and_a_failure_stops_nothing() {
    let controller = FakeController::start().await;
    let web = controller.add_bunker(json!({"name": "web"}));
    let other = controller.add_bunker(json!({}));
    let unknown = "bnk_00000000000000000000000000";
    let paused = run(&controller, &["pause", "web", unknown, &other]).await;
    assert_eq!((paused.code, paused.text()), (1, format!("{web}\n{other}\n").as_str()));
    assert!(paused.stderr.contains("NOT_FOUND"), "{}", paused.stderr);
    let status = |id: &str| controller.seen().bunkers[id]["status"].clone();
    assert_eq!((status(&web), status(&other)), ("paused".into(), "paused".into()));

    let resumed = run(&controller, &["resume", "web", "--json"]).await.json();
    assert_eq!((&resumed[0]["id"], &resumed[0]["status"]), (&json!(web), &"running".into()));
    assert_eq!(run(&controller, &["pause"]).await.code, 2);
}

#[tokio::test]
async fn set_changes_what_is_named_and_nothing_else() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({"name": "web", "label_set": {"old": "1"}}));
    let args = [
        "set",
        "web",
        "--name",
        "api",
        "--label",
        "a=1",
        "--label",
        "b=",
        "--max-lifetime",
        "2h",
        "--json",
    ];
    let changed = run(&controller, &args).await.json();
    assert_eq!(changed["label_set"], json!({"a": "1", "b": ""}));
    assert_eq!((&changed["name"], &changed["max_lifetime_s"]), (&"api".into(), &7200.into()));
    assert_eq!(changed["idle_timeout_s"], 300);

    let args = ["set", &id, "--name", "none", "--no-labels", "--idle-timeout", "none", "--json"];
    let changed = run(&controller, &args).await.json();
    assert_eq!((&changed["name"], &changed["label_set"]), (&Value::Null, &json!({})));
    assert_eq!(
        (&changed["idle_timeout_s"], &changed["max_lifetime_s"]),
        (&Value::Null, &7200.into())
    );
    let shown = run(&controller, &["set", &id, "--name", "x"]).await;
    assert!(shown.text().contains(&id) && shown.text().contains("  x  "), "{}", shown.text());
    for args in [&["set", &id][..], &["set", &id, "--label", "a=1", "--no-labels"]] {
        assert_eq!(run(&controller, args).await.code, 2, "{args:?}");
    }
}

#[tokio::test]
async fn events_are_lines_until_the_end() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let shown = run(&controller, &["events", &id]).await;
    assert_eq!(
        (shown.code, shown.text()),
        (
            0,
            "2026-01-02T03:04:01.000Z  running\n\
             2026-01-02T03:04:02.000Z  terminating  idle for  5 min\n\
             2026-01-02T03:04:03.000Z  terminated\n"
        )
    );
    let cut = controller.add_bunker(json!({"name": "drained"}));
    let shown = run(&controller, &["events", "drained"]).await;
    assert_eq!((shown.code, shown.text()), (1, "2026-01-02T03:04:01.000Z  running\n"));
    assert!(shown.stderr.contains(&format!("scaibunker events {cut}")), "{}", shown.stderr);

    let quiet = run(&controller, &["events", "-q", &id]).await;
    assert_eq!(quiet.text(), "running\nterminating\nterminated\n");
    let json = run(&controller, &["events", "--json", &id]).await;
    let statuses: Vec<Value> = json
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].clone())
        .collect();
    assert_eq!(statuses, ["running", "terminating", "terminated"]);
}

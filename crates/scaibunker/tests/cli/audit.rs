//! `audit` and `audit export`.

use serde_json::json;

use crate::{
    fake_audit::EXPORTED_LINES,
    fake_controller::FakeController,
    fake_objects::make,
    program::{client, run, start},
};

#[tokio::test]
async fn entries_are_filtered_limited_and_newest_first() {
    let controller = FakeController::start().await;
    let mut user = json!(null);
    controller.seen.send_modify(|seen| user = make(seen, "users", json!({"name": "bob"})).unwrap());
    let args = [
        "audit",
        "--since",
        "1h",
        "--until",
        "2030-01-01T00:00:00Z",
        "--actor",
        "bob",
        "--action",
        "create_bunker",
        "--resource",
        "bnk_1",
        "--status",
        "refused",
        "--limit",
        "3",
        "--json",
    ];
    let entries = run(&controller, &args).await.json();
    let times: Vec<_> = entries.as_array().unwrap().iter().map(|entry| &entry["at"]).collect();
    assert_eq!(
        times,
        ["2026-01-02T03:04:04.000Z", "2026-01-02T03:04:03.000Z", "2026-01-02T03:04:02.000Z"]
    );
    let queries = controller.seen().audit_queries;
    assert_eq!(queries.len(), 2, "two entries a page");
    let query = &queries[0];
    assert_eq!((query["limit"].as_str(), queries[1]["limit"].as_str()), ("3", "1"));
    assert_eq!(json!(query["actor_id"]), user["id"]);
    for (name, value) in
        [("action", "create_bunker"), ("resource_id", "bnk_1"), ("status", "refused")]
    {
        assert_eq!(query[name], value);
    }
    assert_eq!(query["until"], "2030-01-01T00:00:00Z");
    let since: jiff::Timestamp = query["since"].parse().unwrap();
    let ago = jiff::Timestamp::now().duration_since(since).as_secs();
    assert!((3600..3700).contains(&ago), "{ago}");

    let table = run(&controller, &["audit"]).await;
    let lines: Vec<_> = table.text().lines().collect();
    assert_eq!(lines.len(), 6);
    for part in ["2026-01-02T03:04:04.000Z", "(unknown)", "401 UNAUTHORIZED", "192.0.2.1", "req_"] {
        assert!(lines[1].contains(part), "{}", lines[1]);
    }
    assert_eq!(run(&controller, &["audit", "--limit", "0"]).await.code, 2);
}

#[tokio::test]
async fn an_export_is_passed_on_as_it_comes() {
    let controller = FakeController::start().await;
    let args = ["audit", "export", "--format", "csv", "--status", "ok"];
    let export = run(&controller, &args).await;
    assert_eq!((export.code, export.text().lines().count()), (0, EXPORTED_LINES));
    let query = &controller.seen().audit_queries[0];
    assert_eq!((query["format"].as_str(), query["status"].as_str()), ("csv", "ok"));

    let mut child = start(&mut client(&controller, &["audit", "export"]));
    drop(child.stdout.take());
    assert_eq!(child.wait().await.unwrap().code(), Some(141));
}

//! The benches measure, report and leave nothing.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    fake_controller::FakeController,
    fake_files::Node,
    program::{client, finish, has_noticed, run, send, start},
};

#[tokio::test]
async fn tti_measures_each_mode_and_ends_every_bunker() {
    let controller = FakeController::start().await;
    let args = ["bench", "tti", "--count", "5", "--stagger-ms", "1", "--json"];
    let report = run(&controller, &args).await.json();
    for (run, mode) in ["sequential", "staggered", "burst"].into_iter().enumerate() {
        let run = &report["runs"][run];
        assert_eq!((&run["mode"], &run["succeeded"]), (&mode.into(), &5.into()), "{run}");
        let tti = run["tti_ms"]["median"].as_f64().unwrap();
        assert!(tti > 0.0 && tti <= run["tti_ms"]["max"].as_f64().unwrap());
        assert!(run["create_ms"]["median"].as_f64().unwrap() <= run["wall_ms"].as_f64().unwrap());
    }
    assert_eq!(report["engines"][0], "fake 1 (tcg)");
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
    let seen = controller.seen();
    assert_eq!((seen.creates.len(), seen.deletes.len(), seen.live()), (15, 15, 0));
}

#[tokio::test]
async fn failures_are_counted_by_code() {
    let controller = FakeController::start().await;
    for (image, code) in [("full", "WORKER_UNAVAILABLE"), ("broken", "bunker failed")] {
        let args = ["bench", "tti", "--image", image, "--count", "3", "--mode", "burst", "--json"];
        let ended = run(&controller, &args).await;
        let run = &ended.json()["runs"][0];
        assert_eq!((ended.code, &run["failures"][code]), (1, &3.into()), "{run}");
        assert!(run["tti_ms"].is_null());
    }
    assert_eq!(controller.seen().live(), 0);
    let table = run(&controller, &["bench", "tti", "--image", "full", "--count", "2"]).await;
    assert!(table.text().contains("0/2") && table.text().contains("2 × WORKER_UNAVAILABLE"));
}

#[tokio::test]
async fn an_interrupted_bench_leaves_no_bunker() {
    for bench in [&["bench", "tti", "--mode", "burst", "--count", "4"][..], &["bench", "exec"]] {
        let controller = FakeController::start().await;
        let args = [bench, &["--image", "slow"]].concat();
        let mut child = start(&mut client(&controller, &args));
        controller.until(|seen| !seen.creates.is_empty()).await;
        send(&child, Signal::INT);
        has_noticed(&mut child).await;
        controller.seen.send_modify(|seen| seen.slow_creates_may_go_on = true);
        let ended = finish(child).await;
        assert_eq!((ended.code, ended.text()), (130, ""), "{}", ended.stderr);
        assert_eq!(controller.seen().live(), 0);
    }
}

fn figure<'a>(report: &'a Value, name: &str) -> &'a Value {
    let figures = report["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"].as_str().unwrap().starts_with(name));
    found.unwrap_or_else(|| panic!("{name}: {report}"))
}

#[tokio::test]
async fn exec_measures_round_trips_output_and_keys() {
    let controller = FakeController::start().await;
    let amounts = ["--count", "7", "--bunkers", "3", "--count-each", "5", "--output-mb", "2"];
    let args = [&["bench", "exec", "--quick", "--json"], &amounts[..]].concat();
    let report = run(&controller, &args).await.json();
    for (name, succeeded) in [
        ("exec of `true`", 7),
        ("exec of `true`, all", 1),
        ("streamed text", 1),
        ("streamed zero", 1),
        ("the text, thrown away", 1),
        ("echo of a key", 10),
    ] {
        let figure = figure(&report, name);
        assert_eq!((&figure["succeeded"], &figure["failures"]), (&succeeded.into(), &json!({})));
        assert!(figure["values"]["median"].as_f64().unwrap() > 0.0, "{figure}");
    }
    assert_eq!(figure(&report, "exec of")["target"], 12.0);
    assert_eq!(report["engines"][0], "fake 1 (tcg)");
    let seen = controller.seen();
    let trues = seen.execs.iter().filter(|exec| exec["command"][0] == "true").count();
    assert_eq!((seen.creates.len(), trues, seen.live()), (3, 7 + 15, 0));
    assert_eq!(seen.typed, b"aaaaaaaaaa\x04\x04");
}

#[tokio::test]
async fn files_are_put_read_uploaded_and_committed() {
    let controller = FakeController::start().await;
    let get = Node::File(vec![7; 2 << 20], 0o644);
    controller.seen.send_modify(|seen| {
        seen.files.insert("/home/scaibunker-bench/get".to_owned(), get);
    });
    let ended = run(&controller, &["bench", "files", "--quick"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{}", ended.text());
    for part in ["PUT", "≤ 250", "GET", "upload", "commit ", "≥ 80", "no disk", "disk alone"] {
        assert!(ended.text().contains(part), "{part}: {}", ended.text());
    }
    let seen = controller.seen();
    assert_eq!((seen.puts.len(), seen.uploads.len(), seen.commits.len()), (3, 2, 2));
    assert!(seen.creates[0]["disk_mb"].as_u64() > Some(24) && seen.live() == 0);
}

#[tokio::test]
async fn what_is_missing_is_a_failure_and_not_a_figure() {
    let controller = FakeController::start().await;
    let report = run(&controller, &["bench", "files", "--quick", "--json"]).await;
    assert_eq!(report.code, 1);
    let report = report.json();
    let get = figure(&report, "GET");
    assert_eq!((&get["failures"], &get["met"]), (&json!({"FILE_NOT_FOUND": 1}), &Value::Null));
    assert_eq!(controller.seen().live(), 0);
}

#[tokio::test]
async fn density_says_when_the_bunkers_are_elsewhere() {
    let controller = FakeController::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(data_dir.path().join("worker/vms")).unwrap();
    let data_dir = data_dir.path().to_str().unwrap();
    let args = ["bench", "density", "--count", "2", "--data-dir", data_dir];
    let ended = run(&controller, &args).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("none of the bunkers runs on this machine"), "{}", ended.stderr);
    assert_eq!((controller.seen().creates.len(), controller.seen().live()), (2, 0));
}

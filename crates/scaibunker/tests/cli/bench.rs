//! The benches measure, report and leave nothing.

use rustix::process::Signal;

use crate::{
    fake_controller::FakeController,
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

#[tokio::test]
async fn exec_measures_in_one_bunker() {
    let controller = FakeController::start().await;
    let report = run(&controller, &["bench", "exec", "--count", "7", "--json"]).await.json();
    assert_eq!((&report["succeeded"], &report["failures"]), (&7.into(), &serde_json::json!({})));
    let seen = controller.seen();
    assert_eq!((seen.creates.len(), seen.execs.len(), seen.live()), (1, 7, 0));
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

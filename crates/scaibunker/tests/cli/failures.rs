//! What goes wrong is told in one line, with the request id and the right exit code.

use std::fs;

use crate::{
    fake_controller::{FakeController, KEY},
    program::{client, ended, program, run},
};

/// Every failure is one line, and nothing but data goes to standard output.
fn assert_one_line(ended: &crate::program::Ended, parts: &[&str]) {
    assert_eq!((ended.text(), ended.stderr.lines().count()), ("", 1), "{}", ended.stderr);
    for part in parts {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_dead_server_is_named_with_what_to_do() {
    // Nobody listens on the discard port of a test machine's loopback.
    let url = "http://127.0.0.1:9";
    for (args, code) in [(&["ls"][..], 1), (&["run", "--", "true"], 125), (&["images"], 1)] {
        let mut command = program(args);
        command.env("SCAIBUNKER_URL", url).env("SCAIBUNKER_API_KEY", KEY);
        let ended = ended(&mut command).await;
        assert_eq!(ended.code, code);
        assert_one_line(&ended, &["error: cannot reach the server at", url, "./scripts/up"]);
    }
}

#[tokio::test]
async fn without_a_key_the_way_to_one_is_named() {
    let home = tempfile::tempdir().unwrap();
    let mut command = program(&["ls"]);
    command.env("HOME", home.path());
    assert_one_line(&ended(&mut command).await, &["admin.key", "./scripts/up"]);

    let remote = ended(&mut program(&["ls", "--url", "https://bunkers.example"])).await;
    assert_one_line(&remote, &["no API key for bunkers.example", "SCAIBUNKER_API_KEY"]);
}

#[tokio::test]
async fn the_key_of_the_local_server_is_found() {
    let controller = FakeController::start().await;
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join(".local/share/scaibunker");
    fs::create_dir_all(&data_dir).unwrap();
    fs::write(data_dir.join("admin.key"), format!("{KEY}\n")).unwrap();
    let mut by_home = program(&["ls", "--url", &controller.url]);
    assert_eq!(ended(by_home.env("HOME", dir.path())).await.code, 0);
    let data_dir = data_dir.to_str().unwrap();
    let mut by_option = program(&["ls", "--url", &controller.url, "--data-dir", data_dir]);
    assert_eq!(ended(&mut by_option).await.code, 0);
}

#[tokio::test]
async fn refusals_carry_code_message_and_request_id() {
    let controller = FakeController::start().await;
    let refused = run(&controller, &["run", "--image", "full", "--", "true"]).await;
    assert_eq!(refused.code, 125);
    assert_one_line(&refused, &["WORKER_UNAVAILABLE: no worker has 256 MiB free", "[req_"]);
    assert!(controller.seen().deletes.is_empty());

    let mut wrong_key = client(&controller, &["ls"]);
    let ended = ended(wrong_key.env("SCAIBUNKER_API_KEY", "sgk_wrong")).await;
    assert_eq!(ended.code, 1);
    assert_one_line(&ended, &["UNAUTHORIZED", "[req_"]);
    assert!(!ended.stderr.contains("sgk_wrong"));
}

#[tokio::test]
async fn a_bunker_that_does_not_start_is_removed_and_its_reason_told() {
    let controller = FakeController::start().await;
    for (image, reason) in [("broken", "the kernel  [31mpanicked"), ("stuck", "provisioning")] {
        for command in [&["run", "--image", image, "--", "true"][..], &["create", "--image", image]]
        {
            let ended = run(&controller, command).await;
            assert_eq!(ended.code, if command[0] == "run" { 125 } else { 1 });
            assert_one_line(&ended, &[reason, "bnk_", "[req_"]);
        }
    }
    let seen = controller.seen();
    assert_eq!((seen.deletes.len(), seen.live(), seen.execs.len()), (4, 0, 0));
}

#[tokio::test]
async fn a_failed_exec_leaves_no_bunker() {
    let controller = FakeController::start().await;
    for (command, reason) in [
        ("lose", "BUNKER_LOST: the microVM died"),
        ("cut", "the stream broke off before its end"),
        ("refused", "BUNKER_NOT_RUNNING"),
    ] {
        let ended = run(&controller, &["run", "--", command]).await;
        assert_eq!((ended.code, controller.seen().live()), (125, 0), "{command}");
        assert!(
            ended.stderr.contains(reason) && ended.stderr.contains("[req_"),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn wrong_usage_is_2_and_reaches_no_server() {
    for args in [
        &[][..],
        &["run"],
        &["run", "--memory", "0", "--", "true"],
        &["run", "--network", "none", "--", "true"],
        &["create", "--label", "x"],
        &["rm"],
        &["rm", "--all", "bnk_1"],
        &["bench", "tti", "--count", "0"],
        &["completions", "cmd"],
        &["up", "--public-url", "bunkers.example"],
        &["up", "--s3-endpoint", "http://127.0.0.1:1"],
        &["cp", "x"],
        &["bench", "files", "--put-mb", "11"],
    ] {
        assert_eq!(ended(&mut program(args)).await.code, 2, "{args:?}");
    }
}

#[tokio::test]
async fn a_bucket_without_keys_stops_the_server_before_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let args = ["up", "--listen", "127.0.0.1:0", "--data-dir", data_dir, "--s3-bucket", "b"];
    let mut command = program(&args);
    command.env("SCAIBUNKER_S3_SECRET_ACCESS_KEY", "hidden");
    let ended = ended(&mut command).await;
    assert_eq!(ended.code, 1);
    assert_one_line(&ended, &["bucket b", "SCAIBUNKER_S3_ACCESS_KEY_ID"]);
    assert!(!ended.stderr.contains("hidden"));
}

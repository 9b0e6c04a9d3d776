//! `exec -i`, `exec -d`, `ps`, `logs` and `kill`.

use serde_json::json;

use crate::{
    fake_commands::all_bytes,
    fake_controller::FakeController,
    program::{client, finish, run, run_with_input, start},
};

/// A bunker with one command that goes on and one that has ended.
async fn with_commands() -> (FakeController, String, [String; 2]) {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let ended = run(&controller, &["exec", "-d", &id, "sleep", "1 h"]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        ids.push(ended.text().trim_end().to_owned());
    }
    ids.sort();
    (controller, id, ids.try_into().unwrap())
}

#[tokio::test]
async fn a_detached_command_is_started_and_named() {
    let (controller, id, [first, _]) = with_commands().await;
    assert!(first.starts_with("exe_"), "{first}");
    let request = &controller.seen().execs[0];
    assert_eq!(
        (&request["detach"], &request["stream"], &request["stdin_open"]),
        (&json!(true), &json!(false), &json!(false)),
    );
    let started = run(&controller, &["exec", "-d", "--json", &id, "sleep"]).await.json();
    assert!(started["exec_id"].is_string() && started["pid"] == 7, "{started}");
}

#[tokio::test]
async fn interactive_input_is_streamed_without_a_bound() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let input = all_bytes().repeat(3 * 4096);
    let ended = run_with_input(&controller, &["exec", "-i", &id, "cat"], &input).await;
    assert_eq!((ended.code, ended.stdout == input), (0, true), "{}", ended.stderr);
    let seen = controller.seen();
    assert!(seen.execs[0]["stdin_base64"].is_null() && seen.inputs.len() > 2);
    assert_eq!(seen.inputs.last().unwrap(), &json!({"eof": true}));
}

#[tokio::test]
async fn a_command_that_takes_no_more_input_ends_as_it_likes() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let input = vec![b'x'; 4 << 20];
    let ended = run_with_input(&controller, &["exec", "-i", &id, "head"], &input).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(!ended.stdout.is_empty() && input.starts_with(&ended.stdout));
}

#[tokio::test]
async fn ps_lists_commands() {
    let (controller, id, [first, second]) = with_commands().await;
    let table = run(&controller, &["ps", &id]).await;
    let lines: Vec<_> = table.text().lines().collect();
    assert!(lines[0].starts_with("ID") && lines[1].starts_with(&first), "{}", table.text());
    assert!(lines[1].contains("running") && lines[1].ends_with("sleep '1 h'"), "{}", lines[1]);
    assert!(lines[2].contains("exited 143") && lines[2].contains("detached"), "{}", lines[2]);
    let json = run(&controller, &["ps", &id, "--json"]).await.json();
    assert_eq!(json[1]["outcome"]["exit_code"], 143);
    let quiet = run(&controller, &["ps", "-q", &id]).await;
    assert_eq!(quiet.text(), format!("{first}\n{second}\n"));
}

#[tokio::test]
async fn logs_show_what_is_there_and_what_is_missing() {
    let (controller, id, [first, second]) = with_commands().await;
    for exec_id in [&first, &second] {
        let ended = run(&controller, &["logs", &id, exec_id]).await;
        assert_eq!((ended.code, ended.text()), (0, "two\nfour\n"), "{}", ended.stderr);
        assert!(ended.stderr.contains("missing") && ended.stderr.contains("three\n"));
    }
}

#[tokio::test]
async fn followed_logs_end_with_the_command_and_its_code() {
    let (controller, id, [first, second]) = with_commands().await;
    assert_eq!(run(&controller, &["logs", "-f", &id, &second]).await.code, 143);
    let follower = start(&mut client(&controller, &["logs", "-f", &id, &first]));
    let killed = run(&controller, &["kill", &id, &first]).await;
    assert_eq!((killed.code, killed.text(), killed.stderr.as_str()), (0, "", ""));
    let ended = finish(follower).await;
    assert_eq!((ended.code, ended.text()), (143, "two\nfour\n"));
    assert_eq!(controller.seen().signals, [(first, json!("SIGTERM"))]);
}

#[tokio::test]
async fn signals_have_names_and_numbers() {
    let (controller, id, [first, _]) = with_commands().await;
    for signal in ["KILL", "9"] {
        assert_eq!(run(&controller, &["kill", "-s", signal, &id, &first]).await.code, 0);
    }
    let signals = controller.seen().signals;
    assert_eq!(signals, [(first.clone(), json!("KILL")), (first, json!(9))]);
}

#[tokio::test]
async fn an_unknown_command_is_an_error() {
    let (controller, id, _) = with_commands().await;
    let unknown = "exe_00000000000000000000000000";
    for (args, code) in [(&["logs", &id, unknown][..], 125), (&["kill", &id, unknown], 1)] {
        let ended = run(&controller, args).await;
        assert_eq!((ended.code, ended.text()), (code, ""));
        assert!(ended.stderr.contains("EXEC_NOT_FOUND"), "{}", ended.stderr);
    }
    for args in
        [&["logs", &id, "exe_1"][..], &["exec", "-td", &id, "sh"], &["exec", "-id", &id, "x"]]
    {
        assert_eq!(run(&controller, args).await.code, 2, "{args:?}");
    }
}

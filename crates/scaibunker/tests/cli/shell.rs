//! `shell` and `exec -it`: a terminal in a bunker.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::{
    fake_controller::FakeController,
    program::{client, run, run_with_input, send},
    pseudo_terminal::PseudoTerminal,
};

fn terminal(controller: &FakeController, args: &[&str]) -> PseudoTerminal {
    PseudoTerminal::start(client(controller, args), 91, 33)
}

#[tokio::test]
async fn a_terminal_is_raw_while_the_shell_runs() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let mut person = terminal(&controller, &["shell", &id, "--user", "root"]);
    person.shows("ready> ").await;
    assert!(person.is_raw());
    // Ctrl-C is the shell's, as every other key.
    person.type_in(b"ls\x03\x1a");
    person.shows("ls\x03\x1a").await;
    person.type_in(b"\x04");
    assert_eq!(person.code().await, 0, "{}", person.text());
    assert!(!person.is_raw());
    let seen = controller.seen();
    assert_eq!(seen.typed, b"ls\x03\x1a\x04");
    let query = &seen.shells[0];
    assert_eq!((query["cols"].as_str(), query["rows"].as_str()), ("91", "33"));
    assert_eq!((query["user"].as_str(), query.get("command")), ("root", None));
}

#[tokio::test]
async fn a_signal_leaves_the_terminal_as_it_was() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let controller = FakeController::start().await;
        let id = controller.add_bunker(json!({}));
        let mut person = terminal(&controller, &["shell", &id]);
        person.shows("ready> ").await;
        assert!(person.is_raw());
        send(&person.child, signal);
        assert_eq!(person.code().await, code, "{}", person.text());
        assert!(!person.is_raw());
    }
}

#[tokio::test]
async fn the_windows_size_is_followed() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let mut person = terminal(&controller, &["exec", "-it", &id, "size"]);
    person.shows("91x33").await;
    person.resize(120, 50);
    person.shows("120x50").await;
    person.resize(40, 10);
    person.shows("40x10").await;
    assert_eq!(person.code().await, 0, "{}", person.text());
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let mut person = terminal(&controller, &["exec", "-it", &id, "break"]);
    person.shows("before").await;
    person.type_in(b"x");
    person.shows("coming back to the shell").await;
    person.shows("back in the shell").await;
    person.shows("ready> ").await;
    assert!(person.is_raw());
    person.type_in(b"after\x04");
    assert_eq!(person.code().await, 0, "{}", person.text());
    person.shows("after").await;
    assert!(!person.is_raw());
    let shells = controller.seen().shells;
    assert_eq!((shells.len(), shells[1]["cols"].as_str()), (2, "91"));
    assert!(shells[1]["shell_id"].starts_with("exe_"));
}

#[tokio::test]
async fn a_person_can_give_up_on_a_server_that_stays_away() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let mut person = terminal(&controller, &["exec", "-it", &id, "break"]);
    person.shows("before").await;
    controller.stop_listening();
    person.type_in(b"x");
    person.shows("coming back to the shell").await;
    person.type_in(b"\x03");
    assert_eq!(person.code().await, 125, "{}", person.text());
    assert!(!person.is_raw());
}

#[tokio::test]
async fn programs_get_an_error_for_a_broken_connection() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let ended = run(&controller, &["exec", "-it", &id, "break"]).await;
    assert_eq!((ended.code, ended.text()), (125, "before"), "{}", ended.stderr);
    assert!(ended.stderr.contains("connection to the server broke"), "{}", ended.stderr);
    assert_eq!(controller.seen().shells.len(), 1);
}

#[tokio::test]
async fn piped_input_is_typed_and_its_end_is_one_control_d() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let input = "a line\n".repeat(20_000);
    let ended = run_with_input(&controller, &["shell", &id], input.as_bytes()).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(ended.text() == format!("ready> {input}"));
    let typed = controller.seen().typed;
    assert!(typed.strip_suffix(&[4]) == Some(input.as_bytes()));
}

#[tokio::test]
async fn exit_codes_are_passed_on() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    for (line, code) in [("0", 0), ("7", 7), ("137", 137), ("300", 255)] {
        let ended = run(&controller, &["exec", "-t", &id, "exit", line]).await;
        assert_eq!((ended.code, ended.text(), ended.stderr.as_str()), (code, "bye\n", ""));
    }
}

#[tokio::test]
async fn a_command_arrives_as_it_was_given() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let argv = ["exec", "-it", "-e", "A=b c", "--cwd", "/my dir", &id, "sh", "-c", "echo '$x'"];
    assert_eq!(run(&controller, &argv).await.code, 0);
    assert_eq!(run(&controller, &["shell", &id, "ls", "-l", "a b"]).await.code, 0);
    let shells = controller.seen().shells;
    let line = r"cd '/my dir' && exec env 'A=b c' sh -c 'echo '\''$x'\'''";
    assert_eq!(shells[0]["command"], line);
    assert_eq!(shells[1]["command"], "ls -l 'a b'");
    assert_eq!(shells[0]["cols"], "80", "without a terminal the size is the usual one");
}

#[tokio::test]
async fn failures_are_told_after_the_terminal_is_restored() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let mut person = terminal(&controller, &["exec", "-it", &id, "lose"]);
    assert_eq!(person.code().await, 125);
    person.shows("BUNKER_LOST: the VM died").await;
    assert!(!person.is_raw());
    assert_eq!(controller.seen().shells.len(), 1, "there is nothing to come back to");

    let gone = "bnk_00000000000000000000000000";
    let ended = run(&controller, &["shell", gone]).await;
    assert_eq!(ended.code, 125);
    assert!(ended.stderr.contains("NOT_FOUND") && ended.stderr.contains("[req_"), "{ended:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_shell_in_silence() {
    let controller = FakeController::start().await;
    let id = controller.add_bunker(json!({}));
    let mut command = client(&controller, &["shell", &id]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(141), &b""[..]));
}

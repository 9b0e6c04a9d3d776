//! Signals and readers that go away: nothing is left behind.

use std::process::Stdio;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::{
    fake_controller::FakeController,
    program::{client, finish, has_noticed, send, start},
};

#[tokio::test]
async fn a_signal_ends_the_command_and_removes_the_bunker() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let controller = FakeController::start().await;
        let mut child = start(&mut client(&controller, &["run", "--", "hang"]));
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).await.unwrap();
        assert_eq!(line, "hanging\n", "output comes while the command runs");
        send(&child, signal);
        let ended = finish(child).await;
        assert_eq!(ended.code, code, "{}", ended.stderr);
        controller.until(|seen| seen.cancelled == 1).await;
        assert_eq!(controller.seen().live(), 0);
    }
}

#[tokio::test]
async fn a_signal_during_a_create_removes_what_it_brings() {
    for command in [&["run", "--image", "slow", "--", "true"][..], &["create", "--image", "slow"]] {
        let controller = FakeController::start().await;
        let mut child = start(&mut client(&controller, command));
        controller.until(|seen| seen.creates.len() == 1).await;
        send(&child, Signal::INT);
        has_noticed(&mut child).await;
        controller.seen.send_modify(|seen| seen.slow_creates_may_go_on = true);
        let ended = finish(child).await;
        assert_eq!((ended.code, ended.text()), (130, ""));
        let seen = controller.seen();
        assert_eq!((seen.live(), seen.deletes.len(), seen.execs.len()), (0, 1, 0));
    }
}

#[tokio::test]
async fn a_second_signal_is_obeyed_at_once() {
    let controller = FakeController::start().await;
    let mut child = start(&mut client(&controller, &["run", "--image", "slow", "--", "true"]));
    controller.until(|seen| seen.creates.len() == 1).await;
    // Two signals of one kind that are sent together count as one.
    while child.try_wait().unwrap().is_none() {
        send(&child, Signal::TERM);
        tokio::task::yield_now().await;
    }
    assert_eq!(finish(child).await.code, 143);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_in_silence() {
    let controller = FakeController::start().await;
    let mut child = start(&mut client(&controller, &["run", "--", "flood"]));
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4096]).await.unwrap();
    drop(stdout);
    let ended = finish(child).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (141, ""));
    controller.until(|seen| seen.cancelled == 1).await;
    assert_eq!(controller.seen().live(), 0);
}

#[tokio::test]
async fn a_signal_while_nobody_reads_the_output_is_obeyed() {
    let controller = FakeController::start().await;
    let mut child = start(&mut client(&controller, &["run", "--", "flood"]));
    let stdout = child.stdout.take().unwrap();
    controller.until(|seen| seen.execs.len() == 1).await;
    send(&child, Signal::INT);
    let ended = finish(child).await;
    assert_eq!((ended.code, controller.seen().live()), (130, 0));
    drop(stdout);
}

#[tokio::test]
async fn input_without_end_can_be_interrupted() {
    let controller = FakeController::start().await;
    let mut command = client(&controller, &["run", "--", "cat"]);
    let mut child = start(command.stdin(Stdio::piped()));
    let stdin = child.stdin.take();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).await.unwrap();
    assert!(line.contains("waiting for the end of standard input"), "{line}");
    send(&child, Signal::INT);
    assert_eq!(finish(child).await.code, 130);
    assert!(controller.seen().creates.is_empty());
    drop(stdin);
}

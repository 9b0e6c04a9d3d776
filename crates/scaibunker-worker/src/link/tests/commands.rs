//! Commands: their streams, their input, what is remembered of them.

use std::sync::atomic::Ordering;

use axum::{
    body::Body,
    http::{Method, StatusCode},
};
use scaibunker_api::{
    error::ErrorCode,
    exec::{Command, ExecMode::*},
    ids::ExecId,
    worker::{ExecReport, ExecState},
};
use scaibunker_guest_protocol::frame::FrameKind;
use serde_json::json;

use super::{Frames, Lab, error_of, start, stdin, stdin_end, supervisor, until};

#[tokio::test]
async fn a_command_is_followed_listed_and_read_again() {
    let lab = Lab::new().await;
    let echo = start(Attached, &["echo", "hi"]);
    let mut frames = lab.exec(&echo, &[]).await;
    let started = frames.started().await;
    assert_eq!((started.exec_id, started.pid, started.next_seq), (echo.exec_id, 42, 0));
    assert_eq!([frames.output().await, frames.output().await], ["hi", "said"]);
    let end = frames.exit().await;
    assert_eq!((end.exit_code, end.stdout_bytes, end.stderr_bytes), (0, 2, 4));

    let report = lab.report(echo.exec_id).await;
    assert_eq!(report.state, ExecState::Exited { end });
    assert_eq!((report.first_seq, report.next_seq, report.pid), (0, 2, Some(42)));
    assert_eq!(report.command, echo.command);
    assert_eq!(lab.reports().await, [report]);

    let mut again = lab.attach(echo.exec_id, "").await;
    assert_eq!(again.started().await.next_seq, 0);
    assert_eq!(again.output().await, "hi");
    let mut rest = lab.attach(echo.exec_id, "?from_seq=1").await;
    assert_eq!(rest.started().await.next_seq, 1);
    assert_eq!(rest.output().await, "said");
    rest.exit().await;
    let mut after = lab.attach(echo.exec_id, "?from_seq=99").await;
    assert_eq!(after.started().await.next_seq, 2);
    after.exit().await;
    let attach = format!("/execs/{}/attach?from_seq=x", echo.exec_id);
    assert_eq!(lab.refused(Method::POST, &attach, "").await, ErrorCode::ValidationError);
}

#[tokio::test]
async fn the_guest_is_asked_for_what_the_command_and_the_bunker_say() {
    let lab = Lab::new().await;
    let mut shell_line = start(Attached, &[]);
    shell_line.command = Some(Command::Shell("fail".to_owned()));
    drop(lab.exec(&shell_line, &[]).await);
    let spec = lab.guest.specs.lock().unwrap()[0].clone();
    assert_eq!(spec.argv, ["/bin/sh", "-c", "fail"]);
    assert_eq!((spec.user.as_str(), spec.timeout_ms), ("bunker", Some(60_000)));
    assert_eq!(spec.exec_id, shell_line.exec_id.to_string());
}

#[tokio::test]
async fn what_the_guest_refuses_is_the_commands_error() {
    let lab = Lab::new().await;
    let fail = start(Attached, &["fail"]);
    assert_eq!(lab.exec(&fail, &[]).await.error().await, ErrorCode::ValidationError);
    let ExecState::Failed { error } = lab.report(fail.exec_id).await.state else { panic!() };
    assert_eq!(error.message, "no such  user");
    assert_eq!(lab.attach(fail.exec_id, "").await.error().await, ErrorCode::ValidationError);
}

#[tokio::test]
async fn an_attached_commands_input_ends_with_its_stream() {
    let lab = Lab::new().await;
    for input in [vec![stdin("a"), stdin("b")], vec![stdin("a"), stdin("b"), stdin_end()]] {
        let mut frames = lab.exec(&start(Attached, &["cat"]), &input).await;
        frames.started().await;
        assert_eq!([frames.output().await, frames.output().await], ["a", "b"]);
        frames.exit().await;
    }
    let (to_command, mut frames) = lab.exec_open(&start(Attached, &["cat"])).await;
    frames.started().await;
    for text in ["one", "two"] {
        to_command.send(stdin(text).encode()).await.unwrap();
        assert_eq!(frames.output().await, text);
    }
    drop(to_command);
    frames.exit().await;
}

#[tokio::test]
async fn several_clients_feed_one_command() {
    let lab = Lab::new().await;
    let cat = start(Detached, &["cat"]);
    let mut first = lab.exec(&cat, &[stdin("first")]).await;
    first.started().await;
    assert_eq!(first.output().await, "first");
    let (to_command, mut second) = lab.attach_open(cat.exec_id).await;
    to_command.send(stdin("second").encode()).await.unwrap();
    assert_eq!(first.output().await, "second");
    let taken = lab.input(cat.exec_id, &[stdin("third")]).await;
    assert_eq!(taken.status(), StatusCode::NO_CONTENT);
    assert_eq!(first.output().await, "third");
    // None of them ended the input by going.
    drop(to_command);
    let taken = lab.input(cat.exec_id, &[stdin("last"), stdin_end()]).await;
    assert_eq!(taken.status(), StatusCode::NO_CONTENT);
    assert_eq!(first.output().await, "last");
    first.exit().await;
    let (bytes, gaps, last) = second.rest().await;
    assert_eq!((bytes, gaps.len(), last.kind), (20, 0, FrameKind::Exit));
    let late = lab.input(cat.exec_id, &[stdin("late")]).await;
    assert_eq!(error_of(late).await.code, ErrorCode::ExecEnded);
}

#[tokio::test]
async fn input_that_has_been_closed_takes_nothing_more() {
    let lab = Lab::new().await;
    let wait = start(Detached, &["wait"]);
    let mut frames = lab.exec(&wait, &[stdin_end()]).await;
    let late = lab.input(wait.exec_id, &[stdin("late")]).await;
    assert_eq!(error_of(late).await.code, ErrorCode::StdinClosed);
    let (to_command, mut client) = lab.attach_open(wait.exec_id).await;
    to_command.send(stdin("late").encode()).await.unwrap();
    assert_eq!(client.error().await, ErrorCode::StdinClosed);
    lab.guest.release();
    frames.exit().await;
}

#[tokio::test]
async fn what_is_no_input_is_refused() {
    let lab = Lab::new().await;
    let spec_less = lab.refused(Method::POST, "/exec", stdin("x").encode()).await;
    assert_eq!(spec_less, ErrorCode::BadRequest);
    assert_eq!(lab.refused(Method::POST, "/exec", "").await, ErrorCode::BadRequest);
    assert_eq!(lab.refused(Method::POST, "/exec", "\x01").await, ErrorCode::BadRequest);
    assert!(lab.reports().await.is_empty());
    let cat = start(Detached, &["cat"]);
    let _frames = lab.exec(&cat, &[]).await;
    let (to_command, mut client) = lab.attach_open(cat.exec_id).await;
    to_command.send("nonsense".into()).await.unwrap();
    assert_eq!(client.error().await, ErrorCode::BadRequest);
}

#[tokio::test]
async fn signals_and_sizes_go_to_the_command() {
    let lab = Lab::new().await;
    let sleep = start(Detached, &["sleep"]);
    let _frames = lab.exec(&sleep, &[]).await;
    let path = format!("/execs/{}", sleep.exec_id);
    for (what, body) in
        [("signal", json!({ "signal": 15 })), ("resize", json!({ "cols": 80, "rows": 24 }))]
    {
        let path = format!("{path}/{what}");
        let told = lab.call(Method::POST, &path, &[], body.to_string().into()).await;
        assert_eq!(told.status(), StatusCode::NO_CONTENT);
        assert_eq!(lab.guest.told.lock().unwrap().pop(), Some((path, body)));
    }
    for (what, body) in [
        ("signal", json!({ "signal": 0 })),
        ("signal", json!({ "signal": 65 })),
        ("resize", json!({ "cols": 0, "rows": 24 })),
    ] {
        let error = lab.refused(Method::POST, &format!("{path}/{what}"), body.to_string()).await;
        assert_eq!(error, ErrorCode::ValidationError, "{what} {body}");
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_has_ended_is_told_apart() {
    let lab = Lab::new().await;
    let (echo, nobody) = (start(Attached, &["echo", ""]), ExecId::generate());
    lab.exec(&echo, &[]).await.exit().await;
    let signal = json!({ "signal": 15 }).to_string();
    for (id, code) in [(echo.exec_id, ErrorCode::ExecEnded), (nobody, ErrorCode::ExecNotFound)] {
        let path = format!("/execs/{id}/signal");
        assert_eq!(lab.refused(Method::POST, &path, signal.clone()).await, code);
    }
    for (method, path) in [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/attach")] {
        let error = lab.refused(method, &format!("/execs/{nobody}{path}"), "").await;
        assert_eq!(error, ErrorCode::ExecNotFound);
    }
}

#[tokio::test]
async fn a_long_output_is_kept_at_the_storage_proxy() {
    let lab = Lab::new().await;
    let mut long = start(Attached, &["bytes", "9000000"]);
    long.keep_output = true;
    let mut frames = lab.exec(&long, &[]).await;
    let (bytes, gaps, last) = frames.rest().await;
    assert_eq!((bytes, gaps.len()), (9_000_000, 0));
    let end: scaibunker_api::worker::ExecEnd = last.parse().unwrap();
    let name = format!("{}.stdout", long.exec_id);
    assert_eq!(end.kept.stdout.as_deref(), Some(name.as_str()), "{end:?}");
    let dir = lab.dir.path().join(format!("objects/scaibunker/output/{}/{name}", lab.id));
    let sizes =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert_eq!(sizes.sum::<u64>(), 9_000_000);
}

#[tokio::test]
async fn a_store_that_fails_does_not_fail_the_command() {
    let lab = Lab::with_storage(tempfile::tempdir().unwrap(), "http://127.0.0.1:1").await;
    let mut long = start(Attached, &["bytes", "9000000"]);
    long.keep_output = true;
    let end = lab.exec(&long, &[]).await.exit().await;
    assert_eq!((end.exit_code, end.kept.stdout), (0, None));
    assert!(end.kept.error.unwrap().contains("could not be stored"));
}

#[tokio::test]
async fn so_many_commands_run_at_once_and_one_more_after_one_has_ended() {
    let lab = Lab::new().await;
    let mut running: Vec<Frames> = Vec::new();
    for _ in 0..64 {
        running.push(lab.exec(&start(Attached, &["sleep"]), &[]).await);
    }
    let spec = scaibunker_guest_protocol::frame::Frame::json(
        FrameKind::Spec,
        &start(Attached, &["echo", ""]),
    );
    let response = lab.call(Method::POST, "/exec", &[], spec.unwrap().encode().into()).await;
    let error = error_of(response).await;
    assert_eq!((error.code, error.retry_after), (ErrorCode::RateLimited, Some(1)));
    running.pop();
    until(|| lab.guest.running.load(Ordering::SeqCst) == 63).await;
    lab.exec(&start(Attached, &["echo", ""]), &[]).await.exit().await;
}

#[tokio::test]
async fn the_last_ended_commands_are_remembered_and_some_of_their_output() {
    let lab = Lab::new().await;
    let mut ids = Vec::new();
    for number in 0..70 {
        // The last six fill a whole journal each.
        let argv: &[&str] = if number < 64 { &["echo", "hi"] } else { &["bytes", "2000000"] };
        let command = start(Detached, argv);
        ids.push(command.exec_id);
        lab.exec(&command, &[]).await.rest().await;
    }
    until(|| lab.supervisor.execs(lab.id).unwrap().reports().len() == 64).await;
    let reports = lab.reports().await;
    assert_eq!(reports.iter().map(|report| report.exec_id).collect::<Vec<_>>(), ids[6..]);
    let at_hand = |report: &ExecReport| report.next_seq - report.first_seq;
    let held: Vec<u64> = reports.iter().map(at_hand).collect();
    // 4 MiB: the last four, and nothing of those before.
    assert!(held[..60].iter().all(|held| *held == 0), "{held:?}");
    assert!(held[60..].iter().all(|held| *held > 0), "{held:?}");
    let records = std::fs::read_dir(lab.dir.path().join("home/execs")).unwrap().count();
    assert_eq!(records, 64);
    let (bytes, gaps, _) = lab.attach(ids[64], "?from_seq=0").await.rest().await;
    assert_eq!((bytes, gaps.len()), (0, 1));
}

#[tokio::test]
async fn an_id_is_used_once() {
    let lab = Lab::new().await;
    let echo = start(Attached, &["echo", ""]);
    lab.exec(&echo, &[]).await.exit().await;
    let spec = scaibunker_guest_protocol::frame::Frame::json(FrameKind::Spec, &echo).unwrap();
    assert_eq!(lab.refused(Method::POST, "/exec", spec.encode()).await, ErrorCode::BadRequest);
}

#[tokio::test]
async fn detached_commands_are_known_to_the_next_server() {
    let lab = Lab::new().await;
    let (done, running) = (start(Detached, &["echo", "hi"]), start(Detached, &["sleep"]));
    lab.exec(&done, &[]).await.exit().await;
    let mut frames = lab.exec(&running, &[]).await;
    frames.started().await;
    let before = lab.report(done.exec_id).await;

    // The next server reads what this one has written down.
    let home = lab.dir.path().join("home");
    let next = std::sync::Arc::new(crate::execs::Execs::default());
    next.record_in(&home);
    next.restore().await;
    let reports = next.reports();
    let found = reports.iter().find(|report| report.exec_id == done.exec_id).unwrap();
    assert_eq!((&found.state, found.command.as_ref()), (&before.state, done.command.as_ref()));
    let found = reports.iter().find(|report| report.exec_id == running.exec_id).unwrap();
    let ExecState::Failed { error } = &found.state else { panic!("{found:?}") };
    assert_eq!(error.code, ErrorCode::BunkerLost);
    assert!(error.message.contains("the worker restarted"));
    assert_eq!(found.pid, Some(42));

    // And the one after it finds the same.
    let third = crate::execs::Execs::default();
    third.record_in(&home);
    third.restore().await;
    assert_eq!(third.reports(), reports);
    third.remove(running.exec_id).await.unwrap();
    assert_eq!(std::fs::read_dir(home.join("execs")).unwrap().count(), 1);
    drop(supervisor(lab.dir.path()));
}

#[tokio::test]
async fn a_command_that_is_deleted_ends_and_is_forgotten() {
    let lab = Lab::new().await;
    let sleep = start(Detached, &["sleep"]);
    let mut frames = lab.exec(&sleep, &[]).await;
    frames.started().await;
    let path = format!("/execs/{}", sleep.exec_id);
    let deleted = lab.call(Method::DELETE, &path, &[], Body::empty()).await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(frames.error().await, ErrorCode::ExecEnded);
    until(|| lab.guest.running.load(Ordering::SeqCst) == 0).await;
    assert!(lab.reports().await.is_empty());
    assert_eq!(std::fs::read_dir(lab.dir.path().join("home/execs")).unwrap().count(), 0);
    assert_eq!(lab.refused(Method::GET, &path, "").await, ErrorCode::ExecNotFound);
}

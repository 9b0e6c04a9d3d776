//! Readers that stop, go or are slow, and bunkers that die.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{
    body::Body,
    http::{Method, StatusCode},
};
use scaibunker_api::{error::ErrorCode, exec::ExecMode::*};
use scaibunker_guest_protocol::frame::{Frame, FrameKind};
use tokio::time::{Instant, sleep};

use super::{Lab, start, stdin, until};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn an_attached_command_ends_with_its_primary_reader() {
    let lab = Lab::new().await;
    let (to_command, frames) = lab.exec_open(&start(Attached, &["sleep"])).await;
    let running = lab.reports().await[0].exec_id;
    let mut second = lab.attach(running, "").await;
    // Input that nobody reads must not be in the way.
    let stuck = tokio::spawn(async move {
        while to_command.send(stdin(&"x".repeat(60_000)).encode()).await.is_ok() {}
    });
    sleep(Duration::from_millis(50)).await;
    assert_eq!(lab.guest.running.load(Ordering::SeqCst), 1);
    drop(frames);
    until(|| lab.guest.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(second.error().await, ErrorCode::ExecEnded);
    stuck.await.unwrap();
}

#[tokio::test]
async fn a_secondary_reader_may_go() {
    let lab = Lab::new().await;
    let wait = start(Attached, &["wait"]);
    let mut frames = lab.exec(&wait, &[]).await;
    drop(lab.attach(wait.exec_id, "").await);
    lab.guest.release();
    frames.exit().await;
}

#[tokio::test]
async fn a_detached_command_outlives_its_stream() {
    let lab = Lab::new().await;
    let cat = start(Detached, &["cat"]);
    let mut frames = lab.exec(&cat, &[]).await;
    frames.started().await;
    drop(frames);
    sleep(Duration::from_millis(20)).await;
    let taken = lab.input(cat.exec_id, &[stdin("still here"), super::stdin_end()]).await;
    assert_eq!(taken.status(), StatusCode::NO_CONTENT);
    let mut frames = lab.attach(cat.exec_id, "").await;
    frames.started().await;
    assert_eq!(frames.output().await, "still here");
    frames.exit().await;
}

#[tokio::test]
async fn a_primary_reader_that_stops_holds_the_command_back_and_loses_nothing() {
    let lab = Lab::new().await;
    let mut frames = lab.exec(&start(Attached, &["bytes", "20000000"]), &[]).await;
    frames.started().await;
    let sent = || lab.guest.sent.load(Ordering::SeqCst);
    let mut before = u64::MAX;
    while sent() != before {
        before = sent();
        sleep(Duration::from_millis(100)).await;
    }
    assert!(before < 4 * MIB, "{before} bytes were taken from the guest");
    let (bytes, gaps, last) = frames.rest().await;
    assert_eq!((bytes, gaps.len(), last.kind), (20_000_000, 0, FrameKind::Exit));
}

#[tokio::test(start_paused = true)]
async fn a_detached_command_waits_for_a_reader_five_seconds_and_tells_it_what_it_missed() {
    let lab = Lab::new().await;
    let flood = start(Detached, &["bytes", "8000000"]);
    let (began, mut frames) = (Instant::now(), lab.exec(&flood, &[]).await);
    frames.started().await;
    let mut other = lab.attach(flood.exec_id, "").await;
    let (bytes, gaps, last) = other.rest().await;
    assert_eq!((bytes, gaps.len(), last.kind), (8_000_000, 0, FrameKind::Exit));
    let took = began.elapsed();
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
    let (bytes, gaps, last) = frames.rest().await;
    assert_eq!((gaps.len(), last.kind), (1, FrameKind::Exit));
    assert!(bytes < 3_000_000, "{bytes}");
}

#[tokio::test]
async fn without_a_reader_the_last_output_stays() {
    let lab = Lab::new().await;
    let flood = start(Detached, &["bytes", "8000000"]);
    drop(lab.exec(&flood, &[]).await);
    lab.until_ended(flood.exec_id).await;
    let (bytes, gaps, _) = lab.attach(flood.exec_id, "").await.rest().await;
    assert!((900_000..=1 << 20).contains(&bytes), "{bytes}");
    assert!(gaps.is_empty());
    let first_seq = lab.report(flood.exec_id).await.first_seq;
    let (_, gaps, _) = lab.attach(flood.exec_id, "?from_seq=3").await.rest().await;
    assert_eq!(gaps, [first_seq]);
}

#[tokio::test]
async fn many_stopped_readers_stop_no_other_command() {
    let lab = Lab::new().await;
    let mut stopped = Vec::new();
    for _ in 0..40 {
        stopped.push(lab.exec(&start(Attached, &["flood"]), &[]).await);
    }
    let mut before = u64::MAX;
    while lab.guest.sent.load(Ordering::SeqCst) != before {
        before = lab.guest.sent.load(Ordering::SeqCst);
        sleep(Duration::from_millis(100)).await;
    }
    let (bytes, ..) = lab.exec(&start(Attached, &["bytes", "3000000"]), &[]).await.rest().await;
    assert_eq!(bytes, 3_000_000);
}

#[tokio::test]
async fn a_bunker_that_ends_ends_every_stream() {
    let lab = Lab::new().await;
    let (attached, detached) = (start(Attached, &["sleep"]), start(Detached, &["flood"]));
    let mut streams = vec![
        lab.exec(&attached, &[]).await,
        lab.exec(&detached, &[]).await,
        lab.attach(attached.exec_id, "").await,
    ];
    let began = Instant::now();
    lab.supervisor.set_ended(lab.id, "it was killed");
    for frames in &mut streams {
        assert_eq!(frames.error().await, ErrorCode::BunkerLost);
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(lab.reports().await.len(), 2);
    let spec = Frame::json(FrameKind::Spec, &start(Attached, &["sleep"])).unwrap();
    let error = lab.refused(Method::POST, "/exec", spec.encode()).await;
    assert_eq!(error, ErrorCode::BunkerNotRunning);
}

#[tokio::test]
async fn a_session_that_breaks_ends_every_stream_within_two_seconds() {
    let lab = Lab::new().await;
    let mut streams = Vec::new();
    for mode in [Attached, Detached] {
        streams.push(lab.exec(&start(mode, &["sleep"]), &[]).await);
    }
    let began = Instant::now();
    lab.guest.die();
    for frames in &mut streams {
        assert_eq!(frames.error().await, ErrorCode::BunkerLost);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_guest_that_breaks_the_protocol_ends_its_command() {
    let lab = Lab::new().await;
    for argv in [["babble"], ["hang up"]] {
        let mut frames = lab.exec(&start(Attached, &argv), &[]).await;
        assert_eq!(frames.error().await, ErrorCode::BunkerLost, "{argv:?}");
    }
}

#[tokio::test]
async fn a_command_has_so_many_readers() {
    let lab = Lab::new().await;
    let sleep = start(Detached, &["sleep"]);
    let mut readers = vec![lab.exec(&sleep, &[]).await];
    for _ in 1..16 {
        readers.push(lab.attach(sleep.exec_id, "").await);
    }
    let path = format!("/execs/{}/attach", sleep.exec_id);
    assert_eq!(lab.refused(Method::POST, &path, "").await, ErrorCode::RateLimited);
    readers.pop();
    drop(lab.call(Method::POST, &path, &[], Body::empty()).await);
}

//! What calls on a paused bunker are answered, and what its worker tells of its activity.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, StatusCode},
};
use jiff::Timestamp;
use scaibunker_api::{
    bunker::BunkerMetrics,
    error::ErrorCode,
    exec::ExecMode::*,
    ids::BunkerId,
    worker::{BunkerReport, ResizeTerminal, StartExec, WorkerBunkerState},
};
use scaibunker_guest_protocol::frame::{Frame, FrameKind};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use super::{LIMIT, Lab, error_of, json, start, stdin, until};
use crate::bunker_state::Guest;

impl Lab {
    fn running(&self) -> Guest {
        self.supervisor.guest(self.id).unwrap()
    }

    async fn bunker(&self) -> BunkerReport {
        json(self.call(Method::GET, "", &[], Body::empty()).await).await
    }

    fn last_active_at(&self) -> Timestamp {
        self.supervisor.report(self.id).unwrap().last_active_at.unwrap()
    }
}

fn on(path: &str) -> String {
    serde_json::json!({ "path": path, "as_root": false, "user": null }).to_string()
}

fn begin(exec: &StartExec) -> Body {
    Frame::json(FrameKind::Spec, exec).unwrap().encode().into()
}

#[tokio::test]
async fn calls_on_a_paused_bunker_are_refused_and_name_the_way_out() {
    let lab = Lab::new().await;
    let cat = start(Detached, &["cat"]);
    let mut frames = lab.exec(&cat, &[]).await;
    frames.started().await;
    lab.supervisor.set_paused(lab.id);
    assert_eq!(lab.bunker().await.state, WorkerBunkerState::Paused);
    let of_exec = |what: &str| format!("/execs/{}/{what}", cat.exec_id);
    let calls = [
        (Method::POST, "/exec".to_owned(), begin(&start(Attached, &["cat"]))),
        (Method::POST, of_exec("attach"), Body::empty()),
        (Method::POST, of_exec("input"), stdin("text").encode().into()),
        (Method::POST, of_exec("signal"), r#"{"signal":15}"#.into()),
        (Method::POST, of_exec("resize"), r#"{"cols":80,"rows":24}"#.into()),
        (Method::GET, "/files".to_owned(), Body::empty()),
    ];
    for (method, path, body) in calls {
        let headers = [(scaibunker_guest_protocol::files::CALL_HEADER, on("/etc"))];
        let error = error_of(lab.call(method, &path, &headers, body).await).await;
        assert_eq!(error.code, ErrorCode::BunkerNotRunning, "{path}");
        assert!(error.message.contains("is paused") && error.message.contains("/resume"));
    }
    // What needs no guest still works.
    assert_eq!(lab.reports().await.len(), 1);
    let path = format!("/execs/{}", cat.exec_id);
    let removed = lab.call(Method::DELETE, &path, &[], Body::empty()).await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    assert_eq!(frames.error().await, ErrorCode::ExecEnded);
}

#[tokio::test]
async fn a_command_stands_still_with_its_bunker_and_goes_on() {
    let lab = Lab::new().await;
    let running = lab.running();
    let mut frames = lab.exec(&start(Attached, &["wait"]), &[]).await;
    frames.started().await;
    lab.supervisor.set_paused(lab.id);
    assert!(timeout(Duration::from_millis(200), frames.0.next()).await.is_err());
    lab.supervisor.set_running(lab.id, running);
    lab.guest.release();
    frames.exit().await;
}

#[tokio::test]
async fn calls_that_a_pause_overtakes_do_not_hang() {
    let lab = Lab::new().await;
    let headers = [(scaibunker_guest_protocol::files::CALL_HEADER, on("/stuck"))];
    let (id, supervisor) = (lab.id, Arc::clone(&lab.supervisor));
    let pausing = tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        supervisor.set_paused(id);
    });
    let began = Instant::now();
    let stuck = lab.call(Method::GET, "/files", &headers, Body::empty()).await;
    assert_eq!(error_of(stuck).await.code, ErrorCode::BunkerNotRunning);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    pausing.await.unwrap();

    // The guest hears of this command and never says that it runs.
    let lab = Lab::new().await;
    let mut frames = lab.exec(&start(Attached, &["mute"]), &[]).await;
    until(|| !lab.guest.specs.lock().unwrap().is_empty()).await;
    lab.supervisor.set_paused(lab.id);
    assert_eq!(frames.error().await, ErrorCode::BunkerNotRunning);
}

#[tokio::test(start_paused = true)]
async fn a_shell_without_a_client_outlives_a_long_pause() {
    let lab = Lab::new().await;
    let terminal = Some(ResizeTerminal { cols: 80, rows: 24 });
    let shell = StartExec { terminal, timeout_s: None, ..start(Shell, &["cat"]) };
    let (client, mut frames) = lab.exec_open(&shell).await;
    frames.started().await;
    let running = lab.running();
    lab.supervisor.set_paused(lab.id);
    drop((client, frames));
    sleep(Duration::from_secs(3600)).await;
    lab.supervisor.set_running(lab.id, running);
    sleep(Duration::from_secs(55)).await;
    assert_eq!(lab.supervisor.execs(lab.id).unwrap().running(), 1);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(lab.supervisor.execs(lab.id).unwrap().running(), 0);
}

#[tokio::test]
async fn commands_and_file_calls_are_activity_and_a_pause_is_not() {
    let lab = Lab::new().await;
    assert_eq!(lab.last_active_at(), Timestamp::UNIX_EPOCH);

    let before = Timestamp::now();
    let headers = [(scaibunker_guest_protocol::files::CALL_HEADER, on("/endless"))];
    let endless = lab.call(Method::GET, "/files", &headers, Body::empty()).await;
    let during = lab.last_active_at();
    assert!(during >= before);
    sleep(Duration::from_millis(2)).await;
    assert!(lab.last_active_at() > during);
    drop(endless);
    let last = lab.last_active_at();
    sleep(Duration::from_millis(2)).await;
    assert_eq!(lab.last_active_at(), last);

    let wait = start(Detached, &["wait"]);
    let mut frames = lab.exec(&wait, &[]).await;
    frames.started().await;
    let during = lab.last_active_at();
    assert!(during > last);
    sleep(Duration::from_millis(2)).await;
    assert!(lab.last_active_at() > during);
    lab.supervisor.set_paused(lab.id);
    let paused = lab.last_active_at();
    sleep(Duration::from_millis(2)).await;
    assert_eq!(lab.last_active_at(), paused);
    lab.guest.release();
    frames.exit().await;
    assert_eq!(lab.bunker().await.last_active_at, Some(paused));
}

#[tokio::test]
async fn metrics_are_those_of_the_process_and_only_of_a_bunker_that_has_one() {
    let lab = Lab::new().await;
    lab.exec(&start(Detached, &["sleep"]), &[]).await.started().await;
    for _ in 0..2 {
        let metrics: BunkerMetrics =
            json(lab.call(Method::GET, "/metrics", &[], Body::empty()).await).await;
        assert!(metrics.memory_bytes > 0);
        assert_eq!(metrics.execs_running, 1);
        lab.supervisor.set_paused(lab.id);
    }
    lab.supervisor.set_ended(lab.id, "it was killed");
    let ended = lab.call(Method::GET, "/metrics", &[], Body::empty()).await;
    assert_eq!(error_of(ended).await.code, ErrorCode::BunkerNotRunning);
}

#[tokio::test]
async fn unknown_and_ended_bunkers_are_neither_paused_nor_resumed() {
    let lab = Lab::new().await;
    lab.supervisor.set_ended(lab.id, "it was killed");
    for what in ["pause", "resume"] {
        let error = lab.refused(Method::POST, &format!("/{what}"), "").await;
        assert_eq!(error, ErrorCode::BunkerNotRunning);
    }
    for (method, what) in
        [(Method::POST, "pause"), (Method::POST, "resume"), (Method::GET, "metrics")]
    {
        let uri = format!("/bunkers/{}/{what}", BunkerId::generate());
        let request = axum::http::Request::builder().method(method).uri(uri);
        let answered = lab.routes.clone().oneshot(request.body(Body::empty()).unwrap());
        let response = timeout(LIMIT, answered).await.unwrap().unwrap();
        assert_eq!(error_of(response).await.code, ErrorCode::NotFound);
    }
}

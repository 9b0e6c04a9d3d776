//! Shells: one client at a time, and a while without.

use std::{sync::atomic::Ordering, time::Duration};

use axum::http::Method;
use scaibunker_api::{
    error::ErrorCode,
    exec::ExecMode::Shell,
    worker::{ResizeTerminal, StartExec},
};
use scaibunker_guest_protocol::{
    exec::TerminalSize,
    frame::{Frame, FrameKind},
};
use tokio::time::{Instant, sleep};

use super::{Lab, start, stdin, stdin_end, until};

fn shell(argv: &[&str]) -> StartExec {
    let terminal = Some(ResizeTerminal { cols: 80, rows: 24 });
    StartExec { terminal, timeout_s: None, ..start(Shell, argv) }
}

#[tokio::test]
async fn a_shell_has_a_terminal() {
    let lab = Lab::new().await;
    let login = StartExec { command: None, ..shell(&[]) };
    let mut frames = lab.exec(&login, &[]).await;
    frames.started().await;
    let spec = lab.guest.specs.lock().unwrap()[0].clone();
    assert_eq!(spec.terminal, Some(TerminalSize { cols: 80, rows: 24 }));
    assert!(spec.argv.is_empty() && spec.timeout_ms.is_none());
    let bare = Frame::json(FrameKind::Spec, &start(Shell, &["cat"])).unwrap();
    let error = lab.refused(Method::POST, "/exec", bare.encode()).await;
    assert_eq!(error, ErrorCode::ValidationError);
}

#[tokio::test]
async fn a_second_client_takes_a_shell_over() {
    let lab = Lab::new().await;
    let cat = shell(&["cat"]);
    let (from_first, mut first) = lab.exec_open(&cat).await;
    from_first.send(stdin("one").encode()).await.unwrap();
    first.started().await;
    assert_eq!(first.output().await, "one");
    let (from_second, mut second) = lab.attach_open(cat.exec_id).await;
    assert_eq!(first.error().await, ErrorCode::ShellTakenOver);
    second.started().await;
    assert_eq!(second.output().await, "one");
    // The first client has no say any more, also not by going.
    let _ = from_first.send(stdin("unheard").encode()).await;
    from_first.closed().await;
    drop(first);
    from_second.send(stdin("two").encode()).await.unwrap();
    assert_eq!(second.output().await, "two");
    from_second.send(stdin_end().encode()).await.unwrap();
    second.exit().await;
}

#[tokio::test(start_paused = true)]
async fn a_shell_waits_a_minute_for_a_client() {
    let lab = Lab::new().await;
    let cat = shell(&["cat"]);
    let (from_first, mut first) = lab.exec_open(&cat).await;
    first.started().await;
    drop((from_first, first));
    sleep(Duration::from_secs(55)).await;
    let (from_second, mut second) = lab.attach_open(cat.exec_id).await;
    second.started().await;
    // While there is a client, no time passes.
    sleep(Duration::from_secs(300)).await;
    from_second.send(stdin("hello").encode()).await.unwrap();
    assert_eq!(second.output().await, "hello");
    drop((from_second, second));
    let began = Instant::now();
    until_ended(&lab).await;
    let took = began.elapsed();
    assert!((60..61).contains(&took.as_secs()), "{took:?}");
    assert_eq!(lab.attach(cat.exec_id, "").await.error().await, ErrorCode::ExecEnded);
}

/// [`until`] is for a clock that runs.
async fn until_ended(lab: &Lab) {
    while lab.guest.running.load(Ordering::SeqCst) > 0 {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_client_that_comes_back_gets_the_last_output() {
    let lab = Lab::new().await;
    let bytes = shell(&["bytes", "3000000"]);
    drop(lab.exec(&bytes, &[]).await);
    lab.until_ended(bytes.exec_id).await;
    let (got, gaps, last) = lab.attach(bytes.exec_id, "").await.rest().await;
    assert!((30_000..=64 * 1024).contains(&got), "{got}");
    assert_eq!((gaps.len(), last.kind), (0, FrameKind::Exit));
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_its_shell_back() {
    let lab = Lab::new().await;
    let mut frames = lab.exec(&shell(&["flood"]), &[]).await;
    frames.started().await;
    let sent = || lab.guest.sent.load(Ordering::SeqCst);
    let mut before = u64::MAX;
    while sent() != before {
        before = sent();
        sleep(Duration::from_millis(100)).await;
    }
    assert!(before < 2 << 20, "{before}");
    for _ in 0..200 {
        frames.output().await;
    }
    until(|| sent() > before).await;
}

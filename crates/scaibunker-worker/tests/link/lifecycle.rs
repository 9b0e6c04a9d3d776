//! Bunkers that are paused, resumed, left to the next server; what they use and when they work.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use scaibunker_api::{
    bunker::BunkerMetrics,
    worker::{BunkerReport, WorkerBunkerState},
};
use scaibunker_worker::vm_home::VmHome;
use tokio::time::sleep;

use super::*;

impl Worker {
    async fn order(&self, what: &str) {
        let response = self.call(Method::POST, &format!("/{what}"), None, "").await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(status, StatusCode::NO_CONTENT, "{what}: {body:?}");
    }

    fn report(&self) -> BunkerReport {
        self.supervisor.report(self.id).unwrap()
    }

    fn last_active_at(&self) -> Timestamp {
        self.report().last_active_at.unwrap()
    }

    fn vms_dir(&self) -> PathBuf {
        self.lab.dir.path().join("vms")
    }

    /// The VMM of the only bunker.
    fn pid(&self) -> i32 {
        let home = VmHome::scan(&self.vms_dir()).unwrap().pop().unwrap();
        let pid = home.record().process.unwrap().pid;
        home.leave();
        pid
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut(&BunkerReport) -> bool) {
        let waited = async {
            while !is_so(&self.report()) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("{what}"));
    }

    async fn metrics(&self) -> BunkerMetrics {
        let answer = json(self.call(Method::GET, "/metrics", None, "").await).await;
        serde_json::from_value(answer).unwrap()
    }

    /// A new server on what the earlier one leaves.
    async fn restart(&mut self) {
        self.stop.cancel();
        self.supervisor.finish().await;
        self.stop = CancellationToken::new();
        self.supervisor = Supervisor::new(Arc::clone(&self.lab.pool), self.stop.clone(), true);
        self.routes = link::router(
            Arc::clone(&self.supervisor),
            Arc::clone(&self.storage),
            self.lab.pool.images().clone(),
            Snapshots::new(Arc::clone(&self.storage), self.vms_dir()),
        );
        self.supervisor.recover().await.unwrap();
        self.supervisor.follow_activity();
    }

    async fn clock_is_right(&self) {
        let (text, _) = self.sh("date +%s").await;
        let (guest, host): (i64, _) = (text.trim().parse().unwrap(), Timestamp::now().as_second());
        assert!((guest - host).abs() <= 1, "guest {guest}, host {host}");
    }
}

/// The numbers that a counting command has said, up to where it says nothing for `quiet`.
async fn heard(frames: &mut FrameReader<Body>, quiet: Duration) -> Vec<u64> {
    let mut text = String::new();
    while let Ok(frame) = timeout(quiet, frames.next()).await {
        let frame = frame.unwrap().unwrap();
        if frame.kind == FrameKind::Stdout {
            text.push_str(&String::from_utf8_lossy(&frame.payload));
        }
    }
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_bunker_stands_still_and_goes_on_where_it_was() {
    let worker = Worker::start().await;
    let nap = StartExec { timeout_s: Some(5), ..sh("sleep 3") };
    let napping = worker.exec(&nap, Body::empty()).await;
    let count = sh("i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done");
    let mut counter = worker.exec(&count, Body::empty()).await;
    while next(&mut counter).await.kind != FrameKind::Stdout {}

    worker.order("pause").await;
    worker.order("pause").await;
    assert_eq!(worker.report().state, WorkerBunkerState::Paused);
    let paused_at = Instant::now();
    let before = heard(&mut counter, Duration::from_secs(2)).await;
    let active_at = worker.last_active_at();
    let used = worker.metrics().await.cpu_time_ms;
    assert!(heard(&mut counter, Duration::from_secs(4)).await.is_empty());
    assert_eq!(worker.last_active_at(), active_at);
    let metrics = worker.metrics().await;
    // The VMM does nothing either.
    assert!(metrics.cpu_time_ms - used <= 10, "{used} ms before, {metrics:?}");
    assert_eq!(metrics.execs_running, 2);
    let refused = worker.call(Method::POST, "/exec", None, "").await;
    assert_eq!(json(refused).await["code"], ErrorCode::BunkerNotRunning.as_str());

    worker.order("resume").await;
    worker.order("resume").await;
    assert_eq!(worker.report().state, WorkerBunkerState::Running);
    let first = loop {
        let frame = next(&mut counter).await;
        if frame.kind == FrameKind::Stdout {
            break String::from_utf8_lossy(&frame.payload).lines().next().unwrap().parse::<u64>();
        }
    };
    // One number may have been read above, before the pause.
    assert_eq!(first.unwrap(), before.last().map_or(2, |last| last + 1));
    worker.clock_is_right().await;
    // Its time limit is over by now, but not by the guest's own clock.
    assert!(paused_at.elapsed() > Duration::from_secs(5));
    let (_, end) = read(napping).await;
    assert_eq!((end.exit_code, end.timed_out), (0, false));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_bunker_can_be_deleted_or_die() {
    let worker = Worker::start().await;
    worker.order("pause").await;
    let response = worker.call(Method::DELETE, "", None, "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert!(worker.supervisor.report(worker.id).is_err());
    assert_eq!(std::fs::read_dir(worker.vms_dir()).unwrap().count(), 0);

    let spec = spec(&worker.lab.shape);
    worker.supervisor.start(worker.id, spec, Origin::Image, String::new()).await.unwrap();
    worker.order("pause").await;
    let pid = rustix::process::Pid::from_raw(worker.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let is_ended = |report: &BunkerReport| matches!(report.state, WorkerBunkerState::Ended { .. });
    worker.until("its end is noticed", is_ended).await;
    assert_eq!(std::fs::read_dir(worker.vms_dir()).unwrap().count(), 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bunker_is_active_while_it_works_and_its_use_is_told() {
    let worker = Worker::start().await;
    assert_eq!(Some(worker.last_active_at()), worker.report().started_at);
    let (_, end) = worker.sh("head -c 20000000 /dev/urandom > /tmp/data && sync").await;
    assert_eq!(end.exit_code, 0);
    // What the command left to be done ends soon.
    let mut last = worker.last_active_at();
    let quiet = async {
        loop {
            sleep(Duration::from_secs(6)).await;
            match worker.last_active_at() {
                now if now == last => return,
                now => last = now,
            }
        }
    };
    timeout(Duration::from_secs(60), quiet).await.expect("an idle bunker counts as active");
    let idle = worker.metrics().await;
    assert!(idle.cpu_time_ms > 0 && idle.execs_running == 0, "{idle:?}");
    assert!((20_000_000..64 << 20).contains(&idle.disk_bytes), "{idle:?}");
    assert!((1 << 20..256 << 20).contains(&idle.memory_bytes), "{idle:?}");
    assert!(idle.last_active_at.duration_since(last).as_millis().abs() <= 1);

    // The loop outlives the command that started it.
    worker.sh("setsid sh -c 'while :; do :; done' >/dev/null 2>&1 &").await;
    let ended = worker.last_active_at();
    sleep(Duration::from_millis(50)).await;
    for _ in 0..2 {
        let before = worker.last_active_at();
        worker.until("its loop is activity", |now| now.last_active_at.unwrap() > before).await;
    }
    assert!(worker.last_active_at() > ended);
    assert_eq!(worker.metrics().await.execs_running, 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_bunker_stays_paused_when_its_worker_restarts() {
    let mut worker = Worker::start_keeping(true).await;
    worker.sh("echo kept > /tmp/kept").await;
    worker.order("pause").await;
    let active_at = worker.last_active_at();
    for _ in 0..2 {
        worker.restart().await;
        worker.until("it is adopted", |now| now.state != WorkerBunkerState::Starting).await;
        assert_eq!(worker.report().state, WorkerBunkerState::Paused);
        assert_eq!(worker.last_active_at(), active_at);
    }
    sleep(Duration::from_secs(2)).await;
    worker.order("resume").await;
    worker.clock_is_right().await;
    assert_eq!(worker.sh("cat /tmp/kept").await.0, "kept\n");

    // One that runs is controlled after a restart as well.
    worker.restart().await;
    worker.until("it is adopted", |now| now.state != WorkerBunkerState::Starting).await;
    assert_eq!(worker.report().state, WorkerBunkerState::Running);
    worker.order("pause").await;
    worker.order("resume").await;
    assert_eq!(worker.sh("cat /tmp/kept").await.0, "kept\n");
    let response = worker.call(Method::DELETE, "", None, "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(std::fs::read_dir(worker.vms_dir()).unwrap().count(), 0);
    worker.stop().await;
}

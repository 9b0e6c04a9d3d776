//! Copies of a bunker that go on beside it.

use std::collections::BTreeSet;

use scaibunker_api::worker::{BunkerReport, ForkBunker, ForkedBunker, WorkerBunkerState};

use super::*;

/// What must be another one in each.
const IDENTITY: &str = "cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/hostname; \
    head -c 32 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid";

impl Worker {
    async fn fork(&self, count: usize) -> ForkedBunker {
        let children = std::iter::repeat_with(BunkerId::generate).take(count).collect();
        let ask = ForkBunker { children, start: spec(&self.lab.shape) };
        let body = serde_json::to_vec(&ask).unwrap();
        let answer = json(self.call(Method::POST, "/fork", None, body).await).await;
        serde_json::from_value(answer.clone()).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// One command in another bunker of this worker.
    async fn sh_in(&mut self, bunker: BunkerId, line: &str) -> String {
        let own = std::mem::replace(&mut self.id, bunker);
        let (text, end) = self.sh(line).await;
        self.id = own;
        assert_eq!(end.exit_code, 0, "{line}: {text}");
        text
    }
}

fn runs(report: &BunkerReport) -> bool {
    matches!(report.state, WorkerBunkerState::Running)
}

#[tokio::test(flavor = "multi_thread")]
async fn children_go_on_from_their_parents_moment_and_are_each_their_own() {
    let mut worker = Worker::start().await;
    // In memory alone, on the disk, and at work.
    worker.sh("echo parent > /dev/shm/file; dd if=/dev/urandom of=/tmp/data bs=1M count=8; md5sum /tmp/data > /tmp/sum").await;
    worker
        .sh("setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; usleep 20000; done' >/dev/null 2>&1 &")
        .await;
    let (_, _) = worker.sh("cat /proc/sys/kernel/random/boot_id > /tmp/boot-id").await;
    let mut attached = worker.exec(&sh("echo begun; sleep 2; echo done"), Body::empty()).await;
    assert_eq!(next(&mut attached).await.kind, FrameKind::Started);

    let forked = worker.fork(3).await;
    println!("the parent stood still for {} us", forked.stood_still_us);
    assert!(forked.children.iter().all(runs), "{forked:?}");
    let (text, end) = read(attached).await;
    assert_eq!((text.as_str(), end.exit_code), ("begun\ndone\n", 0), "the parent's goes on");

    let own = worker.id;
    let mut seen = BTreeSet::new();
    for id in forked.children.iter().map(|child| child.id).chain([own]) {
        let identity = worker.sh_in(id, IDENTITY).await;
        for line in identity.lines() {
            assert!(seen.insert(line.to_owned()), "{line} is in two of them");
        }
        let check = "md5sum -c /tmp/sum; cat /dev/shm/file; date +%s; grep -lx sleep /proc/[0-9]*/comm | wc -l";
        let found = worker.sh_in(id, check).await;
        let lines: Vec<_> = found.lines().collect();
        assert_eq!((lines[0], lines[1]), ("/tmp/data: OK", "parent"));
        let late = jiff::Timestamp::now().as_second() - lines[2].parse::<i64>().unwrap();
        assert!((0..=1).contains(&late), "{late} s late");
        let count =
            "a=$(cat /dev/shm/count); while [ \"$(cat /dev/shm/count)\" = \"$a\" ]; do :; done";
        worker.sh_in(id, count).await;
    }
    // One writes, and no other sees it.
    worker.sh_in(forked.children[0].id, "echo child > /dev/shm/file; echo x > /tmp/x; sync").await;
    for id in [forked.children[1].id, own] {
        assert_eq!(
            worker.sh_in(id, "cat /dev/shm/file; ls /tmp/x 2>/dev/null || :").await,
            "parent\n"
        );
    }

    // A child has children, and a paused one too.
    worker.id = forked.children[0].id;
    let response = worker.call(Method::POST, "/pause", None, "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let grandchildren = worker.fork(2).await;
    assert!(grandchildren.children.iter().all(runs), "{grandchildren:?}");
    let paused = worker.supervisor.report(worker.id).unwrap();
    assert!(matches!(paused.state, WorkerBunkerState::Paused), "{paused:?}");
    for child in grandchildren.children {
        assert_eq!(worker.sh_in(child.id, "cat /dev/shm/file /tmp/x").await, "child\nx\n");
        for line in worker.sh_in(child.id, IDENTITY).await.lines() {
            assert!(seen.insert(line.to_owned()), "{line} is in two of them");
        }
    }
    let response = worker.call(Method::POST, "/resume", None, "").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    worker.sh("true").await;
    worker.stop().await;
}

//! Real microVMs, without a controller: template, clones, their isolation from each other.
//!
//! Needs the guest agent, QEMU and Debian's packages: `./scripts/test` sees to all of them.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod lab;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use scaibunker_api::ids::{BunkerId, ExecId};
use scaibunker_guest_protocol::{
    exec::{ExecSpec, Exit},
    frame::{Frame, FrameDecoder, FrameKind},
};
use scaibunker_worker::{
    channel::GuestBody,
    vm::{Past, Vm},
    vm_home::Claim,
};

use self::lab::{Lab, lab};

async fn bunker(lab: &Lab) -> Vm {
    claimed(lab.pool.make_now(&lab.shape).await.unwrap()).await
}

async fn claimed(mut vm: Vm) -> Vm {
    let claim = Claim {
        bunker_id: BunkerId::generate(),
        image: String::new(),
        workdir: String::new(),
        image_user: "bunker".into(),
        env: BTreeMap::new(),
        started_at: jiff::Timestamp::now(),
        network: scaibunker_api::worker::StartNetwork::default(),
        disk_mb: 64,
    };
    vm.claim(claim, Past::None, (1000, 256), "req_test").await.unwrap();
    vm
}

async fn run(vm: &Vm, line: &str) -> (Exit, String) {
    let spec = ExecSpec {
        exec_id: ExecId::generate().to_string(),
        request_id: "req_test".into(),
        argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
        cwd: None,
        default_cwd: String::new(),
        env: BTreeMap::from([("PATH".into(), "/bin:/usr/bin".into())]),
        user: "root".into(),
        timeout_ms: Some(20_000),
        terminal: None,
    };
    let mut wire = Frame::json(FrameKind::Spec, &spec).unwrap().encode().to_vec();
    wire.extend(Frame::data(FrameKind::StdinEnd, Bytes::new()).encode());
    let body = GuestBody::Whole(Bytes::from(wire));
    let channel = vm.channel().unwrap();
    let response = channel.send(Method::POST, "/exec", body, "req_test").await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let (mut decoder, mut text) = (FrameDecoder::default(), Vec::new());
    decoder.push(&bytes);
    while let Some(frame) = decoder.next_frame().unwrap() {
        match frame.kind {
            FrameKind::Stdout | FrameKind::Stderr => text.extend_from_slice(&frame.payload),
            FrameKind::Exit => {
                return (frame.parse().unwrap(), String::from_utf8(text).unwrap());
            }
            FrameKind::Error => panic!("{:?}", frame.payload),
            _ => {}
        }
    }
    panic!("no exit in {bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_one_template_share_nothing_that_tells_them_apart() {
    let lab = lab(0).await;
    let (a, b) = (bunker(&lab).await, bunker(&lab).await);
    let ask = "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1";
    let ((_, of_a), (_, of_b)) = (run(&a, ask).await, run(&b, ask).await);
    let (of_a, of_b): (Vec<_>, Vec<_>) = (of_a.lines().collect(), of_b.lines().collect());
    assert_eq!(of_a.len(), 3, "{of_a:?}");
    for (line, other) in of_a.iter().zip(&of_b) {
        assert_ne!(line, other);
    }

    let (exit, _) = run(&a, "echo mine > /home/proof && sync").await;
    assert_eq!(exit.exit_code, 0);
    let (_, seen) = run(&b, "cat /home/proof").await;
    assert!(!seen.contains("mine"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guests_clock_runs_with_the_hosts() {
    let lab = lab(0).await;
    let vm = bunker(&lab).await;
    let read = async || {
        let (_, text) = run(&vm, "cat /proc/uptime; date +%s").await;
        let mut lines = text.lines();
        let uptime: f64 = lines.next().unwrap().split(' ').next().unwrap().parse().unwrap();
        let wall: i64 = lines.next().unwrap().parse().unwrap();
        (uptime, wall, Instant::now())
    };
    let (before, wall, began) = read().await;
    assert!((wall - jiff::Timestamp::now().as_second()).abs() <= 1, "wall clock {wall}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (after, _, ended) = read().await;
    let (guest, host) = (after - before, (ended - began).as_secs_f64());
    assert!((guest - host).abs() < 0.2, "guest {guest:.3} s, host {host:.3} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_vm_uses_no_cpu_until_it_is_claimed() {
    let lab = lab(1).await;
    lab.pool.warm(std::slice::from_ref(&lab.shape)).await.unwrap();
    let ready = lab.pool.take_ready(&lab.shape).unwrap();
    let vitals = ready.vitals().unwrap();
    let before = vitals.cpu_time().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = vitals.cpu_time().unwrap() - before;
    assert!(used <= Duration::from_millis(10), "{used:?}");
    let vm = claimed(ready).await;
    assert_eq!(run(&vm, "echo hello").await.1, "hello\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_vm_leaves_nothing() {
    let lab = lab(0).await;
    let vm = bunker(&lab).await;
    let vms = lab.dir.path().join("vms");
    let name = std::fs::read_dir(&vms).unwrap().next().unwrap().unwrap().file_name();
    vm.destroy().await;
    assert_eq!(std::fs::read_dir(&vms).unwrap().count(), 0);
    for hierarchy in ["", "cpu", "memory", "pids"] {
        let group = Path::new("/sys/fs/cgroup").join(hierarchy).join("scaibunker").join(&name);
        assert!(!group.exists(), "{}", group.display());
    }
}

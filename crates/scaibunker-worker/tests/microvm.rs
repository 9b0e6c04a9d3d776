//! Real microVMs, without a controller: template, clones, their isolation from each other.
//!
//! Needs the guest agent, QEMU and Debian's packages: `./scripts/test` sees to all of them.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
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
    assets,
    channel::GuestBody,
    engine::{
        Shape,
        qemu::{Accelerator, Qemu, version},
    },
    jail::CgroupRoot,
    pool::Pool,
    scratch::ScratchDisks,
    seat::UidSlots,
    vm::{Host, Vm},
    vm_home::Claim,
};

fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf()
}

struct Lab {
    pool: Arc<Pool>,
    shape: Shape,
    _dir: tempfile::TempDir,
}

async fn lab() -> Lab {
    let cache = target_dir().join("tmp/cache");
    let agent = target_dir().join("x86_64-unknown-linux-gnu/guest/scaibunker-guest");
    let quiet = |_: &str| {};
    let kernel = assets::kernel(&cache, &agent, &quiet).await.unwrap();
    let image = assets::image(&cache, "busybox", &quiet).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["vms", "jail", "disks"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let program = PathBuf::from("/usr/bin/qemu-system-x86_64");
    let engine = Qemu {
        version: version(&program).await.unwrap(),
        program,
        accelerator: Accelerator::Tcg,
        kernel,
        jail_root: dir.path().join("jail"),
    };
    let host = Arc::new(Host {
        engine: Arc::new(engine),
        disks: ScratchDisks::new(dir.path().join("disks")).unwrap(),
        vms_dir: dir.path().join("vms"),
        cgroups: CgroupRoot::detect(Path::new("/sys/fs/cgroup")),
        uid_slots: Arc::new(UidSlots::default()),
    });
    let shape = Shape { image: image.name.clone(), vcpus: 1, memory_mb: 256, disk_mb: 64 };
    Lab { pool: Pool::new(host, vec![image], 0), shape, _dir: dir }
}

impl Lab {
    async fn bunker(&self) -> Vm {
        let mut vm = self.pool.make_now(&self.shape).await.unwrap();
        let claim = Claim {
            bunker_id: BunkerId::generate(),
            image_user: "bunker".into(),
            env: BTreeMap::new(),
            started_at: jiff::Timestamp::now(),
        };
        vm.claim(claim, 1000, 256, "req_test").await.unwrap();
        vm
    }
}

async fn run(vm: &Vm, line: &str) -> (Exit, String) {
    let spec = ExecSpec {
        exec_id: ExecId::generate().to_string(),
        request_id: "req_test".into(),
        argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
        cwd: None,
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
    let lab = lab().await;
    let (a, b) = (lab.bunker().await, lab.bunker().await);
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
    let lab = lab().await;
    let vm = lab.bunker().await;
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
async fn a_destroyed_vm_leaves_nothing() {
    let lab = lab().await;
    let vm = lab.bunker().await;
    let vms = lab.pool.host().vms_dir.clone();
    let name = std::fs::read_dir(&vms).unwrap().next().unwrap().unwrap().file_name();
    vm.destroy().await;
    assert_eq!(std::fs::read_dir(&vms).unwrap().count(), 0);
    for hierarchy in ["", "cpu", "memory", "pids"] {
        let group = Path::new("/sys/fs/cgroup").join(hierarchy).join("scaibunker").join(&name);
        assert!(!group.exists(), "{}", group.display());
    }
}

//! What real microVMs need: the guest agent, a kernel, an image, QEMU.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use scaibunker_worker::{
    assets,
    engine::{
        Shape,
        qemu::{Accelerator, Qemu, probe_shape, version},
    },
    images::{ImageSettings, Images},
    jail::CgroupRoot,
    oci::RegistrySettings,
    pool::Pool,
    scratch::ScratchDisks,
    seat::UidSlots,
    storage::StorageClient,
    vm::Host,
};
use tokio_util::sync::CancellationToken;

fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf()
}

/// A host that makes microVMs of one shape.
pub struct Lab {
    pub pool: Arc<Pool>,
    pub shape: Shape,
    pub dir: tempfile::TempDir,
}

/// A host in a directory of its own, whose pool keeps that many VMs of a shape.
pub async fn lab(pool_size: usize) -> Lab {
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
        gpus: Arc::default(),
        networks: None,
    });
    let shape = probe_shape(&image);
    let settings = ImageSettings {
        cache_dir: dir.path().join("images"),
        import_dir: dir.path().join("import"),
        budget_bytes: 0,
        registries: RegistrySettings::default(),
        program: "/proc/self/exe".into(),
    };
    // Only built-in images are used, so nothing ever dials it.
    let storage = Arc::new(StorageClient::new("http://127.0.0.1:1", "token").unwrap());
    let shutdown = CancellationToken::new();
    let (images, _) = Images::open(settings, vec![image], storage, None, shutdown).unwrap();
    Lab { pool: Pool::new(host, images, pool_size), shape, dir }
}

//! Bakes through the real helper.

#![expect(clippy::unwrap_used, reason = "a failed step fails its test")]

mod archive;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use archive::{Archive, sha256};
use scaibunker_api::worker::ImageFaultCause;
use scaibunker_worker::{
    bake::{BakeError, BakeJob, Baked, Compression, LayerFile, bake, clear},
    jail::CgroupRoot,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bake-helper");

/// A directory for blobs and results; nothing else may be left in it.
struct Kitchen(tempfile::TempDir);

impl Kitchen {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn blob(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    async fn bake(
        &self,
        layers: &[LayerFile<'_>],
        size_mib: u32,
        result: &str,
    ) -> Result<Baked, BakeError> {
        let told = Mutex::new(Vec::new());
        let cgroups = CgroupRoot::detect(Path::new("/sys/fs/cgroup"));
        let work_dir = self.path(&format!("{result}.work"));
        let baked = bake(BakeJob {
            layers,
            size_mib,
            work_dir: &work_dir,
            result: &self.path(result),
            program: Path::new(PROGRAM),
            cgroups: cgroups.as_ref(),
            progress: &|percent| told.lock().unwrap().push(percent),
        })
        .await;
        assert!(!work_dir.exists(), "{baked:?}");
        assert!(told.lock().unwrap().is_sorted_by(|a, b| a < b));
        assert_eq!(baked.is_ok(), self.path(result).exists());
        baked
    }
}

fn layer(path: &Path, compression: Compression) -> LayerFile<'_> {
    LayerFile { path, compression, diff_id: None }
}

fn fault(result: Result<Baked, BakeError>) -> (ImageFaultCause, String) {
    let error = result.unwrap_err();
    (error.cause(), error.to_string())
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn debugfs(image: &Path, request: &str) -> String {
    let path = "/usr/sbin:/sbin:/usr/bin:/bin";
    let output = Command::new("debugfs")
        .env("PATH", path)
        .args(["-R", request])
        .arg(image)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layers_give_the_same_digest_however_they_are_packed() {
    let kitchen = Kitchen::new();
    let below = Archive::new()
        .dir("etc", 0o755)
        .file("etc/motd", b"hello", 0o644)
        .device("dev/null", 1, 3)
        .many("lib", 300);
    let above = Archive::new().file("etc/.wh.motd", b"", 0).file("bin/su", &[7; 9000], 0o4755);
    let (below, above) = (below.bytes(), above.bytes());
    let (below_id, above_id) = (sha256(&below), sha256(&above));
    let mut digests = Vec::new();
    for (name, compression) in
        [("plain", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)]
    {
        let paths = [("below", &below), ("above", &above)].map(|(layer, bytes)| {
            kitchen.blob(&format!("{name}-{layer}"), &archive::packed(bytes, compression))
        });
        let layers = [
            LayerFile { path: &paths[0], compression, diff_id: Some(&below_id) },
            LayerFile { path: &paths[1], compression, diff_id: Some(&above_id) },
        ];
        let baked = kitchen.bake(&layers, 64, name).await.unwrap();
        let content = fs::read(kitchen.path(name)).unwrap();
        assert_eq!(
            (baked.digest.clone(), baked.size_bytes),
            (sha256(&content), content.len() as u64)
        );
        digests.push(baked.digest);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    let image = kitchen.path("plain");
    assert!(debugfs(&image, "stat /bin/su").contains("Mode:  04755"));
    assert!(debugfs(&image, "stat /dev/null").contains("Type: character special"));
    assert!(!debugfs(&image, "ls -p /etc").contains("motd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_names_its_cause() {
    let kitchen = Kitchen::new();
    let good = Archive::new().file("a", &[1; 100_000], 0o644).bytes();
    let plain = kitchen.blob("plain", &good);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let layers = [LayerFile { diff_id: Some(&wrong), ..layer(&plain, Compression::None) }];
    let (cause, text) = fault(kitchen.bake(&layers, 64, "r").await);
    assert_eq!(cause, ImageFaultCause::DigestMismatch, "{text}");
    assert!(text.starts_with("digest mismatch: "), "{text}");

    let gzip = archive::packed(&good, Compression::Gzip);
    for bytes in [&gzip[..gzip.len() / 2], b"not gzip at all", b""] {
        let cut = kitchen.blob("cut", bytes);
        let (cause, text) = fault(kitchen.bake(&[layer(&cut, Compression::Gzip)], 64, "r").await);
        assert_eq!(cause, ImageFaultCause::Corrupt, "{text}");
    }
    let large = kitchen.blob("large", &Archive::new().file("a", &[1; 3 << 20], 0o644).bytes());
    let (cause, text) = fault(kitchen.bake(&[layer(&large, Compression::None)], 2, "r").await);
    assert_eq!(cause, ImageFaultCause::SizeCap, "{text}");
    assert!(text.starts_with("size cap too small: mkfs.ext4 needs "), "{text}");
    assert!(text.ends_with(", size_mib is 2"), "{text}");
    // The data alone would fit.
    let (cause, text) = fault(kitchen.bake(&[layer(&large, Compression::None)], 3, "r").await);
    assert_eq!(cause, ImageFaultCause::SizeCap, "{text}");

    let missing = kitchen.path("missing");
    let (cause, _) = fault(kitchen.bake(&[layer(&missing, Compression::None)], 64, "r").await);
    assert_eq!(cause, ImageFaultCause::Internal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_is_given_up_leaves_nothing() {
    let kitchen = Kitchen::new();
    let blob = kitchen.blob("blob", &Archive::new().many("d", 200_000).bytes());
    let work_dir = kitchen.path("work");
    let layers = [layer(&blob, Compression::None)];
    let job = BakeJob {
        layers: &layers,
        size_mib: 2048,
        work_dir: &work_dir,
        result: &kitchen.path("result"),
        program: Path::new(PROGRAM),
        cgroups: None,
        progress: &|_| {},
    };
    let mut baking = Box::pin(bake(job));
    let tree = work_dir.join("tree/d");
    tokio::select! {
        result = &mut baking => panic!("{result:?}"),
        () = wait_until("the tree begins", || tree.exists()) => {}
    }
    drop(baking);
    wait_until("the work directory goes", || !work_dir.exists()).await;
    assert!(!kitchen.path("result").exists());
    clear(Path::new(PROGRAM), &work_dir).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_file_of_4_gib_stays_sparse() {
    let kitchen = Kitchen::new();
    let blob = kitchen.blob("blob", &Archive::new().sparse("huge", 4 << 30, b"end").bytes());
    let baked = kitchen.bake(&[layer(&blob, Compression::None)], 64, "result").await.unwrap();
    assert!(baked.size_bytes < 64 << 20);
    assert!(debugfs(&kitchen.path("result"), "stat /huge").contains("Size: 4294967299"));
}

#[tokio::test]
async fn the_helper_without_a_task_says_so() {
    let output = Command::new(PROGRAM).arg("bake-helper").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("no task"));
}

//! Images that others have baked, at a real storage proxy.

use std::{
    future::IntoFuture as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use scaibunker_api::{
    API_PREFIX,
    ids::ImageId,
    image::{CacheStatus, RootConfig},
    worker::{BakedRoot, EnsureImage, ImageFaultCause, ImageFrom, ImageReport},
};
use scaibunker_storage::{Objects, SigningSecret, WorkerToken};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{ImageEvent, ImageSettings, Images};
use crate::{assets::hexadecimal, oci::RegistrySettings, storage::StorageClient};

const TOKEN: &str = "worker";
const LIMIT: Duration = Duration::from_secs(20);
/// Of each root: with holes, as file systems have them.
const ROOT_BYTES: usize = 3 << 20;

struct Lab {
    dir: TempDir,
    storage: Arc<StorageClient>,
    proxy: AbortOnDropHandle<()>,
}

/// One worker's images.
struct Worker {
    images: Images,
    events: mpsc::UnboundedReceiver<ImageEvent>,
    shutdown: CancellationToken,
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::directory(&dir.path().join("objects"), SigningSecret::new("s"));
        let proxy = scaibunker_storage::router(objects.unwrap(), WorkerToken::new(TOKEN));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = axum::serve(listener, Router::new().nest(API_PREFIX, proxy)).into_future();
        let proxy = tokio::spawn(async move { serving.await.unwrap() });
        let storage = Arc::new(StorageClient::new(&url, TOKEN).unwrap());
        Self { dir, storage, proxy: AbortOnDropHandle::new(proxy) }
    }

    fn worker(&self, budget_bytes: u64) -> Worker {
        let settings = ImageSettings {
            cache_dir: self.cache(),
            import_dir: self.dir.path().join("import"),
            budget_bytes,
            registries: RegistrySettings::default(),
            program: "/proc/self/exe".into(),
        };
        let (storage, shutdown) = (Arc::clone(&self.storage), CancellationToken::new());
        let opened = Images::open(settings, Vec::new(), storage, None, shutdown.clone());
        let (images, events) = opened.unwrap();
        Worker { images, events, shutdown }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// A root that somebody has baked and stored.
    async fn stored(&self, seed: u8) -> BakedRoot {
        let mut root = vec![0; ROOT_BYTES];
        for (number, byte) in root[1 << 20..2 << 20].iter_mut().enumerate() {
            *byte = (number as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed;
        }
        let hex = hexadecimal(&Sha256::digest(&root));
        let key = format!("images/{}/{hex}.ext4.zst", ImageId::generate());
        let packed = zstd::encode_all(&root[..], 1).unwrap();
        self.storage.put(&key, packed.into()).await.unwrap();
        BakedRoot {
            key,
            digest: format!("sha256:{hex}"),
            size_bytes: ROOT_BYTES as u64,
            manifest_digest: None,
            config: RootConfig::default(),
        }
    }
}

fn ask(baked: &BakedRoot) -> EnsureImage {
    EnsureImage {
        name: "app".to_owned(),
        from: ImageFrom::Stored { baked: baked.clone() },
        default_cpu_millicores: 1000,
        default_memory_mb: 256,
        default_disk_mb: 64,
    }
}

impl Worker {
    async fn until(&self, id: ImageId, status: CacheStatus) -> ImageReport {
        let reached = async {
            loop {
                match self.images.report(id) {
                    Some(report) if report.status == status => return report,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let reached = timeout(LIMIT, reached).await;
        reached.unwrap_or_else(|_| panic!("no {status:?}: {:?}", self.images.reports()))
    }

    async fn have(&self, baked: &BakedRoot) -> ImageId {
        let id = ImageId::generate();
        self.images.ensure(id, ask(baked));
        self.until(id, CacheStatus::Ready).await;
        id
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.images.finish().await;
    }
}

fn half_made(cache: &Path) -> usize {
    std::fs::read_dir(cache.join("bake")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_root_comes_as_it_was_baked_and_is_there_after_a_restart() {
    let lab = Lab::new().await;
    let baked = lab.stored(1).await;
    let mut worker = lab.worker(1 << 30);
    let id = ImageId::generate();
    // Asked twice at once, it is fetched once.
    worker.images.ensure(id, ask(&baked));
    worker.images.ensure(id, ask(&baked));
    let report = worker.until(id, CacheStatus::Ready).await;
    assert_eq!((report.size_bytes, report.baked), (Some(baked.size_bytes), None));
    let image = worker.images.image(&baked.digest).unwrap();
    let root = std::fs::read(&image.path).unwrap();
    assert_eq!(format!("sha256:{}", hexadecimal(&Sha256::digest(&root))), baked.digest);
    let Some(ImageEvent::Ready(ready)) = worker.events.recv().await else { panic!() };
    assert_eq!(ready.digest, baked.digest);
    assert!(worker.events.try_recv().is_err());
    assert_eq!(half_made(&lab.cache()), 0);
    worker.stop().await;

    let worker = lab.worker(1 << 30);
    assert_eq!(worker.images.report(id).unwrap().status, CacheStatus::Ready);
    // Another image with the same content needs no proxy.
    lab.proxy.abort();
    worker.have(&baked).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_root_is_refused_and_nothing_of_it_stays() {
    let lab = Lab::new().await;
    let (baked, other) = (lab.stored(1).await, lab.stored(2).await);
    let worker = lab.worker(1 << 30);
    for (key, size_bytes) in [
        (other.key.clone(), baked.size_bytes),
        (baked.key.clone(), baked.size_bytes - 1),
        (baked.key.clone(), baked.size_bytes + 1),
    ] {
        let wrong = BakedRoot { key, size_bytes, ..baked.clone() };
        let id = ImageId::generate();
        worker.images.ensure(id, ask(&wrong));
        let fault = worker.until(id, CacheStatus::Failed).await.error.unwrap();
        assert_eq!(fault.cause, ImageFaultCause::DigestMismatch, "{}", fault.message);
        assert!(worker.images.image(&baked.digest).is_none());
        assert_eq!(half_made(&lab.cache()), 0);
    }
    let missing = BakedRoot { key: "images/none/x.ext4.zst".to_owned(), ..baked.clone() };
    let id = ImageId::generate();
    worker.images.ensure(id, ask(&missing));
    let fault = worker.until(id, CacheStatus::Failed).await.error.unwrap();
    assert_eq!(fault.cause, ImageFaultCause::NotFound);
    // Asked again with the right one, it heals.
    worker.images.ensure(id, ask(&baked));
    worker.until(id, CacheStatus::Ready).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_goes_and_what_is_in_use_stays() {
    let lab = Lab::new().await;
    let roots = [lab.stored(1).await, lab.stored(2).await, lab.stored(3).await];
    // Each takes 1 MiB on the disk, and 3 while it comes.
    let worker = lab.worker(4 << 20);
    let first = worker.have(&roots[0]).await;
    let (_, used) = worker.images.lease(&roots[0].digest).unwrap();
    let second = worker.have(&roots[1]).await;
    let third = worker.have(&roots[2]).await;
    let status = |id| worker.images.report(id).unwrap();
    assert_eq!(status(first).status, CacheStatus::Ready, "a bunker uses it");
    let evicted = status(second);
    assert_eq!(evicted.status, CacheStatus::Pending);
    assert_eq!(evicted.error.unwrap().cause, ImageFaultCause::Evicted);
    assert_eq!(status(third).status, CacheStatus::Ready);
    assert!(worker.images.image(&roots[1].digest).is_none());
    // It comes back when it is asked for; the one in use by nobody goes.
    worker.images.ensure(second, ask(&roots[1]));
    worker.until(second, CacheStatus::Ready).await;
    assert_eq!(status(third).status, CacheStatus::Pending);
    drop(used);
    worker.images.forget(first);
    assert!(worker.images.image(&roots[0].digest).is_none(), "nobody needs it any more");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_larger_than_the_budget_leaves_the_others_alone() {
    let lab = Lab::new().await;
    let (small, large) = (lab.stored(1).await, lab.stored(2).await);
    let worker = lab.worker(4 << 20);
    let kept = worker.have(&small).await;
    let large = BakedRoot { size_bytes: 64 << 20, ..large };
    let id = ImageId::generate();
    worker.images.ensure(id, ask(&large));
    let fault = worker.until(id, CacheStatus::Failed).await.error.unwrap();
    assert_eq!(fault.cause, ImageFaultCause::OverBudget);
    assert!(fault.message.contains("--image-cache-mb"), "{}", fault.message);
    assert_eq!(worker.images.report(kept).unwrap().status, CacheStatus::Ready);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_image_is_given_up_and_a_lost_one_comes_again() {
    let lab = Lab::new().await;
    let baked = lab.stored(1).await;
    let worker = lab.worker(1 << 30);
    let id = ImageId::generate();
    worker.images.ensure(id, ask(&baked));
    worker.images.forget(id);
    assert!(worker.images.report(id).is_none());
    let id = worker.have(&baked).await;
    let path = worker.images.image(&baked.digest).unwrap().path;
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    worker.images.ensure(id, ask(&baked));
    worker.until(id, CacheStatus::Ready).await;
    assert!(worker.images.image(&baked.digest).is_some());
    worker.stop().await;
}

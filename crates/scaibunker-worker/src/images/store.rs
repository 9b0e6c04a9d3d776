//! The images of one worker, and the one place where they change.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use scaibunker_api::{
    ids::ImageId,
    worker::{BakedRoot, EnsureImage, ImageFault, ImageFaultCause, ImageFrom, ImageReport},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    ImageSettings,
    fault::{self, Fault},
    records::{ImageRecord, Records},
    roots::{Root, RootLease, RootManifest, Roots},
    state::{Event, Held},
    transfer,
};
use crate::{
    assets::{BakedImage, ImageConfig},
    bake, chain,
    jail::CgroupRoot,
    oci::{LayerCache, OciError, Registry},
    storage::StorageClient,
};

/// Images that are fetched or baked at once; the others wait.
const PARALLEL: usize = 2;

/// Before the storage proxy is asked again to take a root, after all attempts failed.
const STORE_RETRY: Duration = Duration::from_secs(10);

/// The images; clones are the same ones.
#[derive(Clone)]
pub struct Images(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) settings: ImageSettings,
    built_in: Vec<BakedImage>,
    held: Mutex<BTreeMap<ImageId, Entry>>,
    pub(super) roots: Roots,
    pub(super) records: Records,
    pub(super) layers: LayerCache,
    registry: Registry,
    storage: Arc<StorageClient>,
    cgroups: Option<CgroupRoot>,
    turns: Semaphore,
    changed: watch::Sender<()>,
    pub(super) events: mpsc::UnboundedSender<ImageEvent>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

pub(super) struct Entry {
    pub(super) held: Held,
    pub(super) record: Option<ImageRecord>,
    /// Ends the work on it.
    stop: CancellationToken,
}

/// What the pool wants to know.
#[derive(Debug)]
pub enum ImageEvent {
    /// Bunkers can be started from it.
    Ready(Box<BakedImage>),
    /// The root of this digest is gone.
    Gone(String),
}

impl Images {
    /// The images that an earlier worker had, and the built-in ones; the listener hears of what
    /// becomes ready and what goes.
    pub fn open(
        settings: ImageSettings,
        built_in: Vec<BakedImage>,
        storage: Arc<StorageClient>,
        cgroups: Option<CgroupRoot>,
        shutdown: CancellationToken,
    ) -> Result<(Self, mpsc::UnboundedReceiver<ImageEvent>), OciError> {
        let cache = &settings.cache_dir;
        let (roots, ids) = (cache.join("roots"), cache.join("image-ids"));
        let (events, listener) = mpsc::unbounded_channel();
        let shared = Shared {
            built_in,
            held: Mutex::default(),
            roots: Roots::open(roots.clone()).map_err(failed("read", &roots))?,
            records: Records::open(ids.clone()).map_err(failed("read", &ids))?,
            layers: LayerCache::open(cache.join("layers"))?,
            registry: Registry::new(settings.registries.clone())?,
            storage,
            cgroups,
            turns: Semaphore::new(PARALLEL),
            changed: watch::Sender::default(),
            events,
            tasks: TaskTracker::new(),
            shutdown,
            settings,
        };
        let images = Self(Arc::new(shared));
        for dir in [images.import_dir().to_owned(), images.bake_dir()] {
            fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        }
        images.restore().map_err(failed("read", &ids))?;
        Ok((images, listener))
    }

    /// Removes what a killed worker left half-made, before the first image is asked for.
    pub async fn clear_work(&self) -> Result<(), OciError> {
        let dir = self.bake_dir();
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))? {
            let path = entry.map_err(failed("read", &dir))?.path();
            if path.is_dir() {
                if let Err(error) = bake::clear(self.program(), &path).await {
                    tracing::warn!(error = chain(&error), "cannot remove what a bake left");
                }
            } else {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn restore(&self) -> io::Result<()> {
        for (id, record) in self.0.records.list()? {
            let Some(root) = self.0.roots.get(&record.digest) else {
                self.0.records.remove(id);
                continue;
            };
            let arrived = Event::Arrived {
                digest: record.digest.clone(),
                size_bytes: root.manifest.size_bytes,
            };
            let now = Timestamp::now();
            let held = Held::asked(now);
            let mut held = held.apply(arrived, now).unwrap_or(held);
            held.baked = record.baked.clone();
            let must_store = record.baked_here && record.baked.is_none();
            let entry = Entry { held, record: Some(record), stop: self.0.shutdown.child_token() };
            let stop = entry.stop.clone();
            self.held().insert(id, entry);
            if must_store {
                self.spawn(stop, async move |images| images.store(id, &root).await);
            }
        }
        Ok(())
    }

    pub(super) fn held(&self) -> MutexGuard<'_, BTreeMap<ImageId, Entry>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the image comes here. What is here or on its way stays as it is.
    pub fn ensure(&self, id: ImageId, ask: EnsureImage) -> ImageReport {
        let now = Timestamp::now();
        let (report, stop) = {
            let mut all = self.held();
            let fresh =
                || Entry { held: Held::asked(now), record: None, stop: CancellationToken::new() };
            let is_new = !all.contains_key(&id);
            let entry = all.entry(id).or_insert_with(fresh);
            // Somebody may have cleaned up the disk, or it is what this worker baked when another
            // one's bake became the image.
            let wanted = match &ask.from {
                ImageFrom::Stored { baked } => Some(&baked.digest),
                ImageFrom::Source { .. } => None,
            };
            let lost = |digest: &String| {
                self.0.roots.get(digest).is_none() || wanted.is_some_and(|wanted| wanted != digest)
            };
            if entry.held.digest.as_ref().is_some_and(lost)
                && let Some(held) = entry.held.apply(Event::Evicted(fault::evicted()), now)
            {
                entry.held = held;
            }
            let again = entry.held.apply(Event::Asked, now).filter(|_| !entry.held.is_under_way());
            let must_work = is_new || again.is_some();
            if let Some(held) = again {
                entry.held = held;
            }
            if must_work {
                entry.stop = self.0.shutdown.child_token();
            }
            (entry.held.report(id), must_work.then(|| entry.stop.clone()))
        };
        self.0.changed.send_replace(());
        if let Some(stop) = stop {
            self.spawn(stop, async move |images| images.work(id, &ask).await);
        }
        report
    }

    /// Gives up what is under way for an image and forgets it; its root goes unless somebody
    /// needs it.
    pub fn forget(&self, id: ImageId) {
        let digest = {
            let mut all = self.held();
            let Some(entry) = all.remove(&id) else { return };
            entry.stop.cancel();
            self.0.records.remove(id);
            let shared =
                |digest: &String| all.values().any(|e| e.held.digest.as_ref() == Some(digest));
            entry.held.digest.filter(|digest| !shared(digest))
        };
        if let Some(digest) = digest {
            self.evict_root(&digest);
        }
        self.0.changed.send_replace(());
    }

    /// What the worker has of one image.
    pub fn report(&self, id: ImageId) -> Option<ImageReport> {
        Some(self.held().get(&id)?.held.report(id))
    }

    /// What the worker has of every image that it was asked for.
    pub fn reports(&self) -> Vec<ImageReport> {
        self.held().iter().map(|(id, entry)| entry.held.report(*id)).collect()
    }

    /// Tells when a report may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// The images that come with the program.
    pub fn built_in(&self) -> &[BakedImage] {
        &self.0.built_in
    }

    /// The image with this root, if it is here.
    pub fn image(&self, digest: &str) -> Option<BakedImage> {
        let built_in = self.0.built_in.iter().find(|image| image.digest == digest);
        built_in.cloned().or_else(|| {
            let root = self.0.roots.get(digest)?;
            let all = self.held();
            let record = all
                .values()
                .find_map(|entry| entry.record.as_ref().filter(|record| record.digest == digest));
            Some(baked_image(&root, record))
        })
    }

    /// The image with this root, which stays as long as the lease. Built-in ones always stay.
    pub fn lease(&self, digest: &str) -> Option<(BakedImage, Option<RootLease>)> {
        let lease = self.0.roots.lease(digest).map(|(_, lease)| lease);
        Some((self.image(digest)?, lease))
    }

    /// Waits for work under way to end, after the shutdown began.
    pub async fn finish(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn spawn<F, Work>(&self, stop: CancellationToken, work: F)
    where
        F: FnOnce(Self) -> Work + Send + 'static,
        Work: Future<Output = ()> + Send,
    {
        let images = self.clone();
        self.0.tasks.spawn(async move {
            stop.run_until_cancelled(work(images)).await;
        });
    }

    async fn work(&self, id: ImageId, ask: &EnsureImage) {
        // The semaphore is never closed.
        let Ok(turn) = self.0.turns.acquire().await else { return };
        let mut got = self.get_image(id, ask).await;
        if let Err(Fault(ImageFault { cause: ImageFaultCause::NoSpace, .. })) = &got
            && self.evict_everything()
        {
            got = self.get_image(id, ask).await;
        }
        drop(turn);
        match got {
            Ok(()) => {
                let root = {
                    let all = self.held();
                    let digest = all.get(&id).and_then(|entry| entry.held.digest.clone());
                    digest.and_then(|digest| self.0.roots.get(&digest))
                };
                let is_baked_here = matches!(ask.from, ImageFrom::Source { .. });
                if let (Some(root), true) = (root, is_baked_here) {
                    self.store(id, &root).await;
                }
            }
            Err(Fault(fault)) => {
                tracing::warn!(image_id = %id, image = ask.name, error = fault.message, "an image failed");
                self.note(id, Event::Failed(fault));
            }
        }
    }

    /// Keeps at it until the proxy has the root: without it no other worker gets the image.
    async fn store(&self, id: ImageId, root: &Root) {
        let digest = &root.manifest.digest;
        let key = transfer::key_of(id, digest);
        while let Err(Fault(fault)) = transfer::store_root(self.storage(), &key, &root.path).await {
            tracing::warn!(image_id = %id, error = fault.message, "a baked image is not stored yet");
            sleep(STORE_RETRY).await;
        }
        let baked = BakedRoot {
            key,
            digest: digest.clone(),
            size_bytes: root.manifest.size_bytes,
            manifest_digest: root.manifest.manifest_digest.clone(),
            config: root.manifest.config.clone(),
        };
        if let Some(Entry { record: Some(record), .. }) = self.held().get_mut(&id) {
            record.baked = Some(baked.clone());
            if let Err(error) = self.0.records.put(id, record) {
                tracing::warn!(image_id = %id, %error, "an image is stored again after a restart");
            }
        }
        self.note(id, Event::Stored(baked));
    }

    pub(super) fn arrived(
        &self,
        id: ImageId,
        record: ImageRecord,
        root: &Root,
    ) -> Result<(), Fault> {
        let written = self.0.records.put(id, &record);
        written.map_err(|error| fault::of_io("write the record of", &root.path, &error))?;
        if let Some(entry) = self.held().get_mut(&id) {
            entry.record = Some(record.clone());
        }
        let manifest = &root.manifest;
        self.note(
            id,
            Event::Arrived { digest: manifest.digest.clone(), size_bytes: manifest.size_bytes },
        );
        // Nobody listens once the worker stops.
        let _ = self.0.events.send(ImageEvent::Ready(Box::new(baked_image(root, Some(&record)))));
        Ok(())
    }

    pub(super) fn note(&self, id: ImageId, event: Event) {
        if let Some(entry) = self.held().get_mut(&id)
            && let Some(next) = entry.held.apply(event, Timestamp::now())
        {
            entry.held = next;
            self.0.changed.send_replace(());
        }
    }

    pub(super) async fn put_root(
        &self,
        file: &Path,
        manifest: RootManifest,
    ) -> Result<(Root, RootLease), Fault> {
        let (images, path) = (self.clone(), file.to_owned());
        let put = tokio::task::spawn_blocking(move || images.0.roots.put(&path, &manifest));
        let put = put.await.map_err(io::Error::from).and_then(|put| put);
        put.map_err(|error| Fault(fault::of_io("keep", file, &error)))
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.0.roots
    }

    pub(super) fn layers(&self) -> &LayerCache {
        &self.0.layers
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn storage(&self) -> &StorageClient {
        &self.0.storage
    }

    pub(super) fn cgroups(&self) -> Option<&CgroupRoot> {
        self.0.cgroups.as_ref()
    }

    pub(super) fn program(&self) -> &Path {
        &self.0.settings.program
    }

    pub(super) fn import_dir(&self) -> &Path {
        &self.0.settings.import_dir
    }

    /// A place of its own for something half-made.
    pub(super) fn scrap_path(&self, what: &str) -> PathBuf {
        self.bake_dir().join(format!("{}.{what}", Uuid::new_v4()))
    }

    pub(super) fn bake_dir(&self) -> PathBuf {
        self.0.settings.cache_dir.join("bake")
    }
}

#[cfg(test)]
impl Images {
    /// Those of a worker without any, below `dir`.
    pub fn none(dir: &Path) -> Self {
        let settings = ImageSettings {
            cache_dir: dir.join("cache"),
            import_dir: dir.join("import"),
            budget_bytes: 1 << 30,
            registries: crate::oci::RegistrySettings::default(),
            program: "/proc/self/exe".into(),
        };
        let storage = Arc::new(StorageClient::new("http://127.0.0.1:1", "token").unwrap());
        Self::open(settings, Vec::new(), storage, None, CancellationToken::new()).unwrap().0
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OciError {
    let path = path.to_owned();
    move |source| OciError::Io { what, path, source }
}

/// An image as VMs are made of it. One that no record names any more has no shape of its own.
fn baked_image(root: &Root, record: Option<&ImageRecord>) -> BakedImage {
    let manifest = &root.manifest;
    BakedImage {
        name: record.map_or_else(|| manifest.digest.clone(), |record| record.name.clone()),
        digest: manifest.digest.clone(),
        size_bytes: manifest.size_bytes,
        path: root.path.clone(),
        config: ImageConfig {
            root: manifest.config.clone(),
            warm_up: vec![["/bin/sh", "-c", "true"].map(str::to_owned).into()],
            default_cpu_millicores: record.map_or(1000, |record| record.default_cpu_millicores),
            default_memory_mb: record.map_or(512, |record| record.default_memory_mb),
            default_disk_mb: record.map_or(1024, |record| record.default_disk_mb),
        },
    }
}

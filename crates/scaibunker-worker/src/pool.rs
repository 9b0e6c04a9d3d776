//! Templates and the warm pool: why a create is a claim, not a boot.
//!
//! For each shape of VM in use the pool keeps `pool_size` ready ones. A create takes a ready one;
//! without any it makes its own. What was taken is made again in the background, one VM at a
//! time, at a low CPU priority and only while no create is waiting, so that refilling does not
//! slow callers down.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use scaibunker_snapshot::{Manifest, link::RestoreSnapshot};
use tokio::{
    sync::{Notify, OnceCell, Semaphore},
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    assets::BakedImage,
    engine::{DiskStart, EngineError, Shape, Template},
    images::Images,
    jail::CpuPriority,
    snapshots::Snapshots,
    vm::{Host, Vm, VmError},
};

/// Creates that may be in the making at once: more only slow each other down.
const PARALLEL_CLONES: usize = 4;

/// Shapes that stay warm; the least recently asked for goes first.
const MAX_WARM_SHAPES: usize = 4;

/// Pause after a refill that failed.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Templates that are kept; booting one again takes seconds.
const MAX_TEMPLATES: usize = 16;

/// Templates that are booted before anybody asks.
const MAX_PREPARED: usize = 4;

/// A template, once the first who asked has booted it.
type TemplateCell = Arc<OnceCell<Arc<Template>>>;

#[derive(Default)]
struct Shelf {
    ready: HashMap<Shape, VecDeque<Vm>>,
    /// Most recently asked for last.
    recent: Vec<Shape>,
    /// Shapes whose template is there for the first who asks; the newest last.
    prepared: Vec<Shape>,
}

/// The pool of one worker.
pub struct Pool {
    host: Arc<Host>,
    images: Images,
    pool_size: usize,
    templates: Mutex<HashMap<Shape, TemplateCell>>,
    shelf: Mutex<Shelf>,
    foreground: Semaphore,
    waiting: AtomicUsize,
    taken: Notify,
}

/// A snapshot that a disk is made from, and where it is read.
pub struct Restore {
    pub from: RestoreSnapshot,
    pub manifest: Manifest,
    pub snapshots: Snapshots,
}

/// The shapes of which ready VMs are kept, the hottest first.
fn warm_shapes(recent: &[Shape]) -> impl Iterator<Item = &Shape> {
    recent.iter().rev().take(MAX_WARM_SHAPES)
}

/// What becomes of a VM that was just made.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// It is claimed at once.
    Run,
    /// It is warmed up and stands still until it is claimed.
    Rest,
}

impl Pool {
    /// An empty pool over these images; [`Pool::refill`] fills it.
    #[must_use]
    pub fn new(host: Arc<Host>, images: Images, pool_size: usize) -> Arc<Self> {
        Arc::new(Self {
            host,
            images,
            pool_size,
            templates: Mutex::default(),
            shelf: Mutex::default(),
            foreground: Semaphore::new(PARALLEL_CLONES),
            waiting: AtomicUsize::new(0),
            taken: Notify::new(),
        })
    }

    /// The images that VMs are made of.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The host this pool makes VMs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A ready VM from the shelf, if there is one of that shape.
    pub fn take_ready(&self, shape: &Shape) -> Option<Vm> {
        self.ask_for(shape);
        let vm = self.pop(shape);
        self.taken.notify_one();
        vm
    }

    /// A VM of that shape made now, for a caller who waits.
    pub async fn make_now(&self, shape: &Shape) -> Result<Vm, VmError> {
        self.in_foreground(self.make(shape, CpuPriority::Normal, Then::Run)).await
    }

    /// A VM of that shape whose disk is a snapshot's, for a caller who waits.
    pub async fn make_restored(&self, shape: &Shape, restore: &Restore) -> Result<Vm, VmError> {
        let ready = self.take_ready(shape);
        let making = async {
            let mut vm = match ready {
                Some(vm) => vm,
                None => self.make(shape, CpuPriority::Normal, Then::Rest).await?,
            };
            let mounted = vm.mount_restored(restore).await;
            vm.unless_failed(mounted).await
        };
        self.in_foreground(making).await
    }

    /// A VM that continues from a bunker's moment, for a caller who waits. It stands still.
    pub async fn make_from_moment(&self, moment: &Arc<Template>) -> Result<Vm, VmError> {
        let making = async {
            let mut vm = self.host.spawn_copy(moment).await?;
            let restored = vm.restore_moment(moment).await;
            vm.unless_failed(restored).await
        };
        self.in_foreground(making).await
    }

    /// Makes a VM with GPUs, which is never kept ready.
    pub async fn make_with_gpus(&self, shape: &Shape, count: u32) -> Result<Vm, VmError> {
        let image = self.image_of(shape)?;
        self.in_foreground(self.host.boot_with_gpus(shape, &image, count)).await
    }

    /// Makes a VM that somebody waits for: the refill stands back meanwhile.
    async fn in_foreground(
        &self,
        making: impl Future<Output = Result<Vm, VmError>>,
    ) -> Result<Vm, VmError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The semaphore is never closed; without a permit the VM is made all the same.
        let permit = self.foreground.acquire().await.ok();
        let made = making.await;
        drop(permit);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.taken.notify_one();
        made
    }

    fn image_of(&self, shape: &Shape) -> Result<BakedImage, EngineError> {
        let unknown = || EngineError::Protocol(format!("no image named {}", shape.image));
        self.images.image(&shape.image).ok_or_else(unknown)
    }

    /// Marks a shape as wanted, so that the refill keeps it warm, and lets go of what has not been
    /// asked for in a long time: callers choose shapes, and each template holds memory.
    fn ask_for(&self, shape: &Shape) {
        let cold: Vec<Vm> = {
            let mut shelf = self.shelf();
            let Shelf { ready, recent, prepared } = &mut *shelf;
            recent.retain(|other| other != shape);
            prepared.retain(|other| other != shape);
            recent.push(shape.clone());
            recent.drain(..recent.len().saturating_sub(MAX_TEMPLATES));
            let is_wanted = |shape: &Shape| recent.contains(shape) || prepared.contains(shape);
            self.templates().retain(|shape, _| is_wanted(shape));
            let warm: Vec<_> = warm_shapes(recent).collect();
            ready.extract_if(|shape, _| !warm.contains(&shape)).flat_map(|(_, vms)| vms).collect()
        };
        for vm in cold {
            tokio::spawn(vm.destroy());
        }
    }

    /// Keeps the pool full until the token is cancelled, then empties it.
    pub async fn refill(self: Arc<Self>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let Some(shape) = self.wanting() else {
                tokio::select! {
                    () = self.taken.notified() => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            };
            match self.make(&shape, CpuPriority::Background, Then::Rest).await {
                Ok(vm) => self.shelf().ready.entry(shape).or_default().push_back(vm),
                Err(error) => {
                    tracing::warn!(image = shape.image, error = %crate::chain(&error), "cannot refill the warm pool");
                    // An image that does not boot must not keep the others from being made ready.
                    self.shelf().recent.retain(|other| other != &shape);
                    tokio::select! {
                        () = sleep(RETRY_DELAY) => {}
                        () = shutdown.cancelled() => {}
                    }
                }
            }
        }
        let left: Vec<Vm> = self.shelf().ready.drain().flat_map(|(_, vms)| vms).collect();
        for vm in left {
            vm.destroy().await;
        }
    }

    /// Waits until every wanted shape has one ready VM at least. On a busy host these must not
    /// starve as a refill may: the server's start waits for them.
    pub async fn warm(&self, shapes: &[Shape]) -> Result<(), VmError> {
        for shape in shapes {
            self.ask_for(shape);
            if self.pool_size == 0 {
                self.template(shape).await?;
                continue;
            }
            let mut made = self.make(shape, CpuPriority::Normal, Then::Rest).await;
            if let Err(error @ VmError::Guest(_)) = &made {
                tracing::warn!(error = %crate::chain(error), "a first VM does not answer; trying again");
                made = self.make(shape, CpuPriority::Normal, Then::Rest).await;
            }
            self.shelf().ready.entry(shape.clone()).or_default().push_back(made?);
        }
        Ok(())
    }

    /// Boots the template of bunkers that ask for nothing special, before the first one does. Its
    /// VMs are kept ready only once there was one.
    pub async fn prepare(&self, image: &BakedImage) -> Result<(), VmError> {
        let shape = Shape::default_of(image);
        {
            let mut shelf = self.shelf();
            let Shelf { recent, prepared, .. } = &mut *shelf;
            if !recent.contains(&shape) && !prepared.contains(&shape) {
                prepared.push(shape.clone());
                prepared.drain(..prepared.len().saturating_sub(MAX_PREPARED));
            }
        }
        self.template(&shape).await.map(drop)
    }

    /// Lets go of everything that was made of an image.
    pub fn forget(&self, digest: &str) {
        let gone: Vec<Vm> = {
            let mut shelf = self.shelf();
            let Shelf { ready, recent, prepared } = &mut *shelf;
            recent.retain(|shape| shape.image != digest);
            prepared.retain(|shape| shape.image != digest);
            self.templates().retain(|shape, _| shape.image != digest);
            ready.extract_if(|shape, _| shape.image == digest).flat_map(|(_, vms)| vms).collect()
        };
        for vm in gone {
            tokio::spawn(vm.destroy());
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn templates(&self) -> MutexGuard<'_, HashMap<Shape, TemplateCell>> {
        self.templates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, shape: &Shape) -> Option<Vm> {
        self.shelf().ready.get_mut(shape)?.pop_front()
    }

    /// The hottest shape that has too few ready VMs, unless a create is waiting for the CPU.
    fn wanting(&self) -> Option<Shape> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let shelf = self.shelf();
        let count = |shape: &Shape| shelf.ready.get(shape).map_or(0, VecDeque::len);
        warm_shapes(&shelf.recent).find(|shape| count(shape) < self.pool_size).cloned()
    }

    async fn make(&self, shape: &Shape, priority: CpuPriority, then: Then) -> Result<Vm, VmError> {
        let template = self.template(shape).await?;
        let mut vm = self.host.spawn(&template, priority).await?;
        let made = async {
            if shape.disk == DiskStart::Restored {
                return vm.wait_for_disk(&template).await;
            }
            vm.restore(&template).await?;
            match then {
                Then::Rest => vm.rest(&template).await,
                Then::Run => Ok(()),
            }
        };
        let made = made.await;
        if matches!(made, Err(VmError::Guest(_))) {
            // All clones of a template that was saved at a bad moment would be like this one.
            self.give_up(shape, &template);
        }
        vm.unless_failed(made).await
    }

    /// Has the next who asks boot another template.
    fn give_up(&self, shape: &Shape, template: &Arc<Template>) {
        let mut templates = self.templates();
        let is_it = templates.get(shape).and_then(|cell| cell.get());
        if is_it.is_some_and(|current| Arc::ptr_eq(current, template)) {
            templates.remove(shape);
        }
    }

    /// The shape's template, booted by the first who asks.
    async fn template(&self, shape: &Shape) -> Result<Arc<Template>, VmError> {
        let cell = {
            let mut templates = self.templates();
            Arc::clone(templates.entry(shape.clone()).or_default())
        };
        let boot = || async {
            let image = self.image_of(shape)?;
            let started = tokio::time::Instant::now();
            let template = self.host.boot_template(shape, &image).await?;
            tracing::info!(
                image = image.name,
                memory_mb = shape.memory_mb,
                duration_ms = started.elapsed().as_millis() as u64,
                "template booted"
            );
            Ok(Arc::new(template))
        };
        cell.get_or_try_init(boot).await.cloned()
    }
}

//! The worker's side of its links: it dials every controller and serves the controller's calls over
//! that connection, so that nothing ever dials a worker. For each controller:
//!
//! ```text
//! register ─▶ heartbeats, every 10 s and whenever a bunker ends by itself
//!          └▶ dial ─▶ serve until the connection breaks ─▶ register again
//! ```

mod bridges;
mod commit;
mod controller;
mod exec;
mod execs;
mod file_answer;
mod files;
mod guest_call;
mod images;
mod input;
mod links;
mod routes;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use hyper::{server::conn::http2::Builder, upgrade::Upgraded};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    service::TowerToHyperService,
};
use scaibunker_api::{
    ids::WorkerId,
    worker::{
        ControllerAddress, HEARTBEAT_INTERVAL_S, Heartbeat, ReadyImage, RegisterWorker, Registered,
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    controller::{ControllerClient, LinkError},
    links::Links,
    routes::router,
};
use crate::{
    chain, images::Images, snapshots::Snapshots, storage::StorageClient, supervisor::Supervisor,
};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// A link that lived this long was a good one: the next retry is quick again.
const STABLE_AFTER: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(6);
/// What one unread stream may hold in this process.
const STREAM_WINDOW: u32 = 1 << 20;
/// The largest that HTTP/2 has: a command that does not read its input must stop no other call.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// A piece of a file; more is taken apart by the controller.
const MAX_FRAME_BYTES: u32 = 256 * 1024;
/// A call on two longest paths, percent-encoded, and the rest of the head.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
const MAX_STREAMS: u32 = 4_096;
/// Between two heartbeats that only tell how an image comes on.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last word to the controller may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// What a worker is to every controller.
pub struct Identity {
    pub supervisor: Arc<Supervisor>,
    pub storage: Arc<StorageClient>,
    pub images: Images,
    pub snapshots: Snapshots,
    /// What the worker says of itself, but its id.
    pub introduction: RegisterWorker,
    /// The id that the first controller gave; held while it is asked.
    pub id: tokio::sync::Mutex<Option<WorkerId>>,
    /// Remembers it for the next start.
    pub remember: Box<dyn Fn(WorkerId) + Send + Sync>,
}

impl Identity {
    /// What the worker says of itself now.
    fn introduction(&self, worker_id: Option<WorkerId>) -> RegisterWorker {
        let image_cache = self.images.reports();
        RegisterWorker { worker_id, image_cache, ..self.introduction.clone() }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            images: self.introduction.images.clone(),
            image_cache: self.images.reports(),
            bunkers: self.supervisor.reports(),
        }
    }

    /// Registers with a controller, under the id that the worker has or gets.
    async fn register(&self, controller: &ControllerClient) -> Result<Registered, LinkError> {
        let mut id = self.id.lock().await;
        let registered = controller.register(&self.introduction(*id)).await?;
        if *id != Some(registered.worker_id) {
            *id = Some(registered.worker_id);
            (self.remember)(registered.worker_id);
        }
        Ok(registered)
    }
}

/// Keeps one controller linked to this worker.
struct Link {
    controller: ControllerClient,
    worker: Arc<Identity>,
    /// Tells which controllers there are, as this one knows them.
    controllers: watch::Sender<Vec<ControllerAddress>>,
    /// How many links are up.
    up: watch::Sender<usize>,
}

/// A link that is up, until it is dropped.
struct Up(watch::Sender<usize>);

impl Up {
    fn new(up: &watch::Sender<usize>) -> Self {
        up.send_modify(|count| *count += 1);
        Self(up.clone())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Link {
    /// Registers, beats and serves until `shutdown`, through every failure of the other side.
    async fn run(self, shutdown: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.serve_once(&shutdown) => ended,
                () = shutdown.cancelled() => return,
            };
            if shutdown.is_cancelled() {
                return;
            }
            if began.elapsed() > STABLE_AFTER {
                retry = FIRST_RETRY;
            }
            let controller = self.controller.base();
            match ended {
                Ok(()) => tracing::warn!(controller, "the link ended; dialling again"),
                Err(error) => tracing::warn!(
                    controller,
                    error = %chain(&error),
                    retry_ms = retry.as_millis() as u64,
                    "no link to a controller"
                ),
            }
            tokio::select! {
                () = sleep(jittered(retry)) => {}
                () = shutdown.cancelled() => return,
            }
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    }

    /// One registration and the link that follows it.
    async fn serve_once(&self, shutdown: &CancellationToken) -> Result<(), LinkError> {
        let Registered { worker_id, controllers, .. } =
            self.worker.register(&self.controller).await?;
        self.hear(controllers);
        let connection = self.controller.dial(worker_id).await?;
        tracing::info!(worker_id = %worker_id, controller = self.controller.base(), "linked");
        tokio::select! {
            served = self.serve(connection, shutdown) => served,
            () = self.beat(worker_id) => Ok(()),
        }
    }

    /// An empty list is that of a controller that is alone.
    fn hear(&self, controllers: Vec<ControllerAddress>) {
        self.controllers.send_if_modified(|known| {
            let is_news = *known != controllers;
            *known = controllers;
            is_news
        });
    }

    async fn serve(
        &self,
        connection: Upgraded,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        let Identity { supervisor, storage, images, snapshots, .. } = &*self.worker;
        let (supervisor, storage) = (Arc::clone(supervisor), Arc::clone(storage));
        let routes = router(supervisor, storage, images.clone(), snapshots.clone());
        let served = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_frame_size(MAX_FRAME_BYTES)
            .max_header_list_size(MAX_HEADER_BYTES)
            .serve_connection(connection, TowerToHyperService::new(routes));
        tokio::pin!(served);
        tokio::select! {
            ended = served.as_mut() => ended.map_err(LinkError::Broken),
            () = shutdown.cancelled() => {
                served.as_mut().graceful_shutdown();
                // Calls in flight end with their bunkers, which are ended before the link is.
                let _ = timeout(FAREWELL_LIMIT, served).await;
                Ok(())
            }
        }
    }

    /// Sends heartbeats until the controller no longer knows the worker.
    async fn beat(&self, worker_id: WorkerId) {
        let (mut ended, mut images) =
            (self.worker.supervisor.ended.subscribe(), self.worker.images.changes());
        let mut up = None;
        loop {
            ended.mark_unchanged();
            images.mark_unchanged();
            match self.controller.heartbeat(worker_id, &self.worker.heartbeat()).await {
                Ok(heard) => {
                    // The first one a controller takes makes the worker one that it places bunkers
                    // on.
                    up.get_or_insert_with(|| Up::new(&self.up));
                    self.hear(heard.controllers);
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "a heartbeat was not taken");
                    if error.is_unknown_worker() {
                        return;
                    }
                }
            }
            let beaten = Instant::now();
            tokio::select! {
                () = sleep(Duration::from_secs(HEARTBEAT_INTERVAL_S)) => {}
                _ = ended.changed() => {}
                _ = images.changed() => tokio::select! {
                    () = sleep_until(beaten + SHORTEST_INTERVAL) => {}
                    _ = ended.changed() => {}
                },
            }
        }
    }
}

/// Between half and all of it: workers that lost a controller together come back one by one.
fn jittered(pause: Duration) -> Duration {
    let mut bits = [0; 4];
    // Without random numbers all of it will do.
    let _ = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    pause - pause.mul_f64(f64::from(u32::from_le_bytes(bits)) / f64::from(u32::MAX) / 2.0)
}

/// How an image appears to controllers.
#[must_use]
pub fn ready_image(image: &crate::assets::BakedImage) -> ReadyImage {
    ReadyImage {
        name: image.name.clone(),
        digest: image.digest.clone(),
        size_bytes: image.size_bytes,
        default_cpu_millicores: image.config.default_cpu_millicores,
        default_memory_mb: image.config.default_memory_mb,
        default_disk_mb: image.config.default_disk_mb,
        config: image.config.root.clone(),
    }
}

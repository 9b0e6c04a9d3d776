//! The worker's side of the link: it dials a controller and serves the controller's calls over
//! that connection, so that nothing ever dials a worker.
//!
//! ```text
//! register ─▶ heartbeats, every 10 s and whenever a bunker ends by itself
//!          └▶ dial ─▶ serve until the connection breaks ─▶ register again
//! ```

mod commit;
mod controller;
mod exec;
mod execs;
mod file_answer;
mod files;
mod guest_call;
mod images;
mod input;
mod routes;
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
    worker::{HEARTBEAT_INTERVAL_S, Heartbeat, ReadyImage, RegisterWorker},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    controller::{ControllerClient, LinkError},
    routes::router,
};
use crate::{chain, images::Images, storage::StorageClient, supervisor::Supervisor};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// A link that lived this long was a good one: the next retry is quick again.
const STABLE_AFTER: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Keeps one controller linked to this worker.
pub struct Link {
    pub controller: ControllerClient,
    pub supervisor: Arc<Supervisor>,
    pub storage: Arc<StorageClient>,
    pub images: Images,
    /// What the worker says of itself; `worker_id` is filled in once it is known.
    pub introduction: RegisterWorker,
    /// Remembers the id that the controller gave.
    pub remember: Box<dyn Fn(WorkerId) + Send + Sync>,
    /// Whether the link is up.
    pub is_up: watch::Sender<bool>,
}

impl Link {
    /// Registers, beats and serves until `shutdown`, through every failure of the other side.
    pub async fn run(mut self, shutdown: CancellationToken) {
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
            match ended {
                Ok(()) => tracing::warn!("the link to the controller ended; dialling again"),
                Err(error) => tracing::warn!(
                    error = %chain(&error),
                    retry_ms = retry.as_millis() as u64,
                    "no link to the controller"
                ),
            }
            tokio::select! {
                () = sleep(retry) => {}
                () = shutdown.cancelled() => return,
            }
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    }

    /// One registration and the link that follows it.
    async fn serve_once(&mut self, shutdown: &CancellationToken) -> Result<(), LinkError> {
        let worker_id = self.controller.register(&self.introduction()).await?.worker_id;
        if self.introduction.worker_id != Some(worker_id) {
            self.introduction.worker_id = Some(worker_id);
            (self.remember)(worker_id);
        }
        let connection = self.controller.dial(worker_id).await?;
        tracing::info!(worker_id = %worker_id, "linked to the controller");
        let served = tokio::select! {
            served = self.serve(connection, shutdown) => served,
            () = self.beat(worker_id) => Ok(()),
        };
        self.is_up.send_replace(false);
        served
    }

    async fn serve(
        &self,
        connection: Upgraded,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        let routes =
            router(Arc::clone(&self.supervisor), Arc::clone(&self.storage), self.images.clone());
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
        loop {
            match self.heartbeat(worker_id).await {
                // The first one a controller takes makes the worker one that it places bunkers on.
                Ok(()) => drop(self.is_up.send_replace(true)),
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
                () = self.supervisor.ended.notified() => {}
                () = self.images.changed() => tokio::select! {
                    () = sleep_until(beaten + SHORTEST_INTERVAL) => {}
                    () = self.supervisor.ended.notified() => {}
                },
            }
        }
    }

    /// What the worker says of itself now.
    fn introduction(&self) -> RegisterWorker {
        RegisterWorker { image_cache: self.images.reports(), ..self.introduction.clone() }
    }

    async fn heartbeat(&self, worker_id: WorkerId) -> Result<(), LinkError> {
        let heartbeat = Heartbeat {
            images: self.introduction.images.clone(),
            image_cache: self.images.reports(),
            bunkers: self.supervisor.reports(),
        };
        self.controller.heartbeat(worker_id, &heartbeat).await
    }
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

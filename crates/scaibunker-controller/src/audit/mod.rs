//! The audit log's writer, and its readers.
//!
//! A request waits until its entry is in the database before it is answered. Entries that wait at
//! the same time are written by one statement, so that the log costs a busy server little more
//! than an idle one.

mod export;

use std::sync::Arc;

use scaibunker_api::audit::AuditEntry;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::export::{Export, Format};
use crate::{
    domain::actor::Actor,
    failure::{Failure, chain},
    metrics::Metrics,
    store::{AuditFilter, Store},
};

/// Entries that may wait; requests that bring more wait before they are taken.
const QUEUE: usize = 1024;

/// Entries of one statement.
const BATCH: usize = 256;

/// The service; one for the process.
pub struct Audit {
    store: Store,
    queue: mpsc::Sender<Waiting>,
}

struct Waiting {
    entry: AuditEntry,
    /// Dropped once the entry is written, or cannot be.
    _settled: oneshot::Sender<()>,
}

impl Audit {
    /// A service on `store`, whose writer runs among `tasks` until `stopped`.
    #[must_use]
    pub fn start(
        store: Store,
        metrics: Arc<Metrics>,
        tasks: &TaskTracker,
        stopped: CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tasks.spawn(write_all(store.clone(), waiting, metrics, stopped));
        Self { store, queue }
    }

    /// Writes a call down. Should that fail, the log and a metric tell: what was done is done, and
    /// an answer that says otherwise would be wrong.
    pub async fn record(&self, entry: AuditEntry) {
        let (settled, is_settled) = oneshot::channel();
        if self.queue.send(Waiting { entry, _settled: settled }).await.is_ok() {
            let _ = is_settled.await;
        }
    }

    /// The newest `limit` entries within the caller's reach that pass the filter.
    pub async fn list(
        &self,
        actor: &Actor,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, Failure> {
        Ok(self.store.list_audit(actor.scope(), filter, limit).await?)
    }

    /// All entries within the caller's reach that pass the filter, a page at a time.
    #[must_use]
    pub fn export(&self, actor: &Actor, filter: AuditFilter, format: Format) -> Export {
        Export::new(self.store.clone(), actor.scope(), filter, format)
    }
}

async fn write_all(
    store: Store,
    mut waiting: mpsc::Receiver<Waiting>,
    metrics: Arc<Metrics>,
    stopped: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let taken = tokio::select! {
            biased;
            taken = waiting.recv_many(&mut batch, BATCH) => taken,
            () = stopped.cancelled(), if !waiting.is_closed() => {
                // What is in the queue is still written.
                waiting.close();
                continue;
            }
        };
        if taken == 0 {
            return;
        }
        let entries: Vec<&AuditEntry> = batch.iter().map(|waiting| &waiting.entry).collect();
        if let Err(error) = store.insert_audit(&entries).await {
            metrics.audit_failures.inc_by(taken as u64);
            tracing::error!(entries = taken, error = chain(&error), "the audit log lacks entries");
        }
        batch.clear();
    }
}

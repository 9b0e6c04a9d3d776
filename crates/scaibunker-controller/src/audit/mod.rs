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
    metrics: Arc<Metrics>,
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
        tasks.spawn(write_all(store.clone(), waiting, Arc::clone(&metrics), stopped));
        Self { store, metrics, queue }
    }

    /// Writes a call down. Should that fail, the log and a metric tell: what was done is done, and
    /// an answer that says otherwise would be wrong.
    pub async fn record(&self, entry: AuditEntry) {
        let (settled, is_settled) = oneshot::channel();
        if self.queue.send(Waiting { entry, _settled: settled }).await.is_ok() {
            let _ = is_settled.await;
        }
    }

    /// Writes down a call whose request was cut off: nobody waits for it.
    pub fn record_later(&self, entry: AuditEntry) {
        let (settled, _) = oneshot::channel();
        if self.queue.try_send(Waiting { entry, _settled: settled }).is_err() {
            self.metrics.audit_failures.inc();
            tracing::error!("the audit log lacks a call that was cut off: too many entries wait");
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

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use scaibunker_api::ids::{EventId, RequestId};

    use super::*;
    use crate::{domain::actor::Scope, store::DatabaseUrl};

    fn entry(action: &str) -> AuditEntry {
        AuditEntry {
            id: EventId::generate(),
            at: Timestamp::now(),
            request_id: RequestId::generate(),
            actor_id: None,
            api_key_id: None,
            tenant_id: None,
            action: action.to_owned(),
            resource_id: None,
            ip: "::1".parse().unwrap(),
            status: 200,
            error: None,
        }
    }

    async fn service(
        dir: &std::path::Path,
    ) -> (Audit, Arc<Metrics>, CancellationToken, TaskTracker) {
        let store = Store::open(&DatabaseUrl::Sqlite(dir.join("db"))).await.unwrap();
        let (metrics, stopped) = (Arc::new(Metrics::new()), CancellationToken::new());
        let tasks = TaskTracker::new();
        let audit = Audit::start(store, Arc::clone(&metrics), &tasks, stopped.clone());
        tasks.close();
        (audit, metrics, stopped, tasks)
    }

    #[tokio::test]
    async fn what_was_taken_is_written_before_the_writer_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (audit, metrics, stopped, tasks) = service(dir.path()).await;
        let first = entry("first");
        audit.record(first.clone()).await;
        for _ in 0..300 {
            audit.record_later(entry("later"));
        }
        stopped.cancel();
        tasks.wait().await;
        let all = AuditFilter::default();
        let found = audit.store.list_audit(Scope::Everything, &all, 1000).await.unwrap();
        assert_eq!(found.len(), 301);
        let micros = |entry: &AuditEntry| AuditEntry {
            at: Timestamp::from_microsecond(entry.at.as_microsecond()).unwrap(),
            ..entry.clone()
        };
        assert_eq!(found.last(), Some(&micros(&first)));
        assert_eq!(metrics.audit_failures.get(), 0);
    }

    #[tokio::test]
    async fn a_failed_write_is_counted_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (audit, metrics, ..) = service(dir.path()).await;
        audit.store.close().await;
        audit.record(entry("lost")).await;
        assert_eq!(metrics.audit_failures.get(), 1);
    }

    #[tokio::test]
    async fn what_is_older_than_is_kept_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (audit, ..) = service(dir.path()).await;
        audit.record(entry("old")).await;
        let (past, future) = (SignedDuration::from_secs(-60), SignedDuration::from_secs(60));
        let at = |shift| Timestamp::now().checked_add(shift).unwrap();
        assert_eq!(audit.store.forget_audit_before(at(past)).await.unwrap(), 0);
        assert_eq!(audit.store.forget_audit_before(at(future)).await.unwrap(), 1);
    }
}

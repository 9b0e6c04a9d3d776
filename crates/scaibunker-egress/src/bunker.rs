//! One bunker, as the gateway knows it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use scaibunker_api::{
    bunker::NetworkUsage,
    egress::{EgressEvent, EgressEventKind, EgressProtocol, EgressVerdict},
    ids::BunkerId,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Policy, audit::AuditLog, dial::Refusal, shaper::Shaper};

/// Connections that a bunker may have open at once.
const MAX_CONNECTIONS: usize = 1024;

/// Of these, such as have not said yet where they want to go, or speak HTTP: what is read of them is
/// kept in memory, up to 16 KiB each.
const MAX_TALKS: usize = 256;

/// Names that a bunker may look up at once, and in the long run each second.
const LOOKUP_BURST: f64 = 200.0;
const LOOKUPS_PER_SECOND: f64 = 50.0;

/// What all connections of one bunker share.
#[derive(Debug)]
pub struct Bunker {
    pub id: BunkerId,
    pub policy: Policy,
    shaper: Option<Shaper>,
    audit: Option<AuditLog>,
    connections: Arc<Semaphore>,
    talks: Arc<Semaphore>,
    lookups: Mutex<(f64, Instant)>,
    counted: Counted,
}

#[derive(Debug, Default)]
struct Counted {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
}

/// What the audit says about one attempt.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub protocol: EgressProtocol,
    pub name: Option<String>,
    pub aim: SocketAddr,
}

impl Bunker {
    pub fn new(id: BunkerId, policy: Policy, audit: Option<AuditLog>) -> Self {
        Self {
            id,
            shaper: policy.bandwidth_mbit.map(Shaper::new),
            policy,
            audit,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            talks: Arc::new(Semaphore::new(MAX_TALKS)),
            lookups: Mutex::new((LOOKUP_BURST, Instant::now())),
            counted: Counted::default(),
        }
    }

    /// A place for one more connection, unless the bunker has too many.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// A place for one more connection that is listened to.
    pub fn talk(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.talks).try_acquire_owned().ok()
    }

    /// Whether it may look up one more name now.
    pub fn may_look_up(&self) -> bool {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *lookups;
        let earned = at.elapsed().as_secs_f64() * LOOKUPS_PER_SECOND;
        let left = (left + earned).min(LOOKUP_BURST) - 1.0;
        if left < 0.0 {
            return false;
        }
        *lookups = (left, Instant::now());
        true
    }

    /// What was counted since the gateway knows the bunker.
    pub fn usage(&self) -> NetworkUsage {
        NetworkUsage {
            sent_bytes: self.counted.sent_bytes.load(Relaxed),
            received_bytes: self.counted.received_bytes.load(Relaxed),
            connections: self.counted.connections.load(Relaxed),
            open_connections: (MAX_CONNECTIONS - self.connections.available_permits()) as u64,
            refused: self.counted.refused.load(Relaxed),
        }
    }

    /// Writes down that a connection is allowed, before anything of it leaves. What cannot be
    /// written down is not allowed.
    pub fn open(self: &Arc<Self>, attempt: Attempt) -> Result<Open, Refusal> {
        self.allow(&attempt)?;
        self.counted.connections.fetch_add(1, Relaxed);
        let (bunker, sent, received) = (Arc::clone(self), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Open { bunker, attempt, sent, received })
    }

    /// Writes down that an attempt is allowed.
    pub fn allow(&self, attempt: &Attempt) -> Result<(), Refusal> {
        self.record(attempt, opening(attempt), EgressVerdict::Allowed, None, None)
            .map_err(|_| Refusal::Unrecorded)
    }

    /// Counts and writes down that an attempt is refused, or has failed.
    pub fn refuse(&self, attempt: &Attempt, refusal: &Refusal) {
        let verdict = refusal.verdict();
        if verdict == EgressVerdict::Refused {
            self.counted.refused.fetch_add(1, Relaxed);
        }
        let reason = Some(refusal.to_string());
        // It does not happen, so it may go unrecorded.
        let _ = self.record(attempt, opening(attempt), verdict, reason, None);
    }

    fn record(
        &self,
        attempt: &Attempt,
        event: EgressEventKind,
        verdict: EgressVerdict,
        reason: Option<String>,
        bytes: Option<(u64, u64)>,
    ) -> std::io::Result<()> {
        let Some(audit) = &self.audit else { return Ok(()) };
        audit.write(&EgressEvent {
            at: Timestamp::now(),
            event,
            protocol: attempt.protocol,
            name: attempt.name.clone(),
            address: Some(attempt.aim.ip().to_canonical()),
            port: attempt.aim.port(),
            verdict,
            reason,
            sent_bytes: bytes.map(|(sent, _)| sent),
            received_bytes: bytes.map(|(_, received)| received),
        })
    }
}

/// A connection that is open. Dropped, it writes down what was carried.
#[derive(Debug)]
pub struct Open {
    bunker: Arc<Bunker>,
    attempt: Attempt,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Open {
    /// Counts bytes that the bunker has sent; how long its bandwidth wants to wait now.
    pub fn sent(&self, bytes: usize) -> Duration {
        self.sent.fetch_add(bytes as u64, Relaxed);
        self.bunker.counted.sent_bytes.fetch_add(bytes as u64, Relaxed);
        self.bunker.shaper.as_ref().map_or(Duration::ZERO, |shaper| shaper.charge(bytes))
    }

    /// Counts bytes that the bunker has got.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
        self.bunker.counted.received_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let bytes = Some((self.sent.load(Relaxed), self.received.load(Relaxed)));
        let (kind, verdict) = (EgressEventKind::Closed, EgressVerdict::Allowed);
        if let Err(error) = self.bunker.record(&self.attempt, kind, verdict, None, bytes) {
            // The worker reads it.
            eprintln!("{}: the end of a connection is not audited: {error}", self.bunker.id);
        }
    }
}

fn opening(attempt: &Attempt) -> EgressEventKind {
    match attempt.protocol {
        EgressProtocol::Dns => EgressEventKind::Lookup,
        _ => EgressEventKind::Opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Names;

    fn bunker() -> Bunker {
        let policy = Policy { names: Names::Any, bandwidth_mbit: None, is_audited: false };
        Bunker::new(BunkerId::generate(), policy, None)
    }

    #[test]
    fn lookups_are_bounded() {
        let bunker = bunker();
        let let_through = (0..1_000).filter(|_| bunker.may_look_up()).count();
        assert!((200..260).contains(&let_through), "{let_through}");
    }

    #[test]
    fn connections_are_bounded_and_counted() {
        let bunker = bunker();
        let places: Vec<_> = (0..MAX_CONNECTIONS).map(|_| bunker.place().unwrap()).collect();
        assert!(bunker.place().is_none());
        assert_eq!(bunker.usage().open_connections, MAX_CONNECTIONS as u64);
        drop(places);
        assert_eq!(bunker.usage().open_connections, 0);
    }
}

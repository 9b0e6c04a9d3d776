//! What workers say of their own accord, one thing after the other.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use scaibunker_api::{ids::WorkerId, worker::Heartbeat};

/// Heartbeats that are to be settled. Each tells a worker's whole state, so of those that wait the last
/// one counts.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Has every worker whose heartbeats are being settled.
    waiting: Mutex<HashMap<WorkerId, Option<Heartbeat>>>,
}

impl Inbox {
    /// Takes a heartbeat. Returns whether nobody settles this worker's: the caller is to, until
    /// [`Self::next`] has no more.
    pub fn put(&self, id: WorkerId, beat: Heartbeat) -> bool {
        self.waiting().insert(id, Some(beat)).is_none()
    }

    /// What to settle next of a worker.
    pub fn next(&self, id: WorkerId) -> Option<Heartbeat> {
        let mut waiting = self.waiting();
        let beat = waiting.get_mut(&id).and_then(Option::take);
        if beat.is_none() {
            waiting.remove(&id);
        }
        beat
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<WorkerId, Option<Heartbeat>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use scaibunker_api::{
        ids::BunkerId,
        worker::{BunkerReport, WorkerBunkerState},
    };

    use super::*;

    #[test]
    fn one_settles_and_the_last_one_counts() {
        let (inbox, id, other) = (Inbox::default(), WorkerId::generate(), WorkerId::generate());
        let report = BunkerReport {
            id: BunkerId::generate(),
            state: WorkerBunkerState::Starting,
            started_at: None,
            last_active_at: None,
            ip_address: None,
        };
        let beat = |bunkers: usize| Heartbeat {
            images: Vec::new(),
            image_cache: Vec::new(),
            bunkers: vec![report.clone(); bunkers],
        };
        assert!(inbox.put(id, beat(0)) && inbox.put(other, beat(0)));
        assert_eq!(inbox.next(id), Some(beat(0)));
        assert!(!inbox.put(id, beat(1)) && !inbox.put(id, beat(2)));
        assert_eq!((inbox.next(id), inbox.next(id)), (Some(beat(2)), None));
        assert!(inbox.put(id, beat(3)));
    }
}

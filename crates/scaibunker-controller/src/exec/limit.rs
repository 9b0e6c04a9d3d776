//! How many commands run in each bunker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scaibunker_api::ids::BunkerId;

/// Counts the commands of each bunker up to a maximum.
#[derive(Debug, Clone)]
pub(super) struct ExecLimit {
    maximum: usize,
    running: Arc<Mutex<HashMap<BunkerId, usize>>>,
}

/// The right to run one command; dropping it gives it back.
#[derive(Debug)]
pub(super) struct ExecPermit {
    limit: ExecLimit,
    bunker: BunkerId,
}

impl ExecLimit {
    pub(super) fn new(maximum: usize) -> Self {
        Self { maximum, running: Arc::default() }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<BunkerId, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, bunker: BunkerId) -> Option<ExecPermit> {
        let mut running = self.running();
        let count = running.entry(bunker).or_default();
        if *count >= self.maximum {
            return None;
        }
        *count += 1;
        Some(ExecPermit { limit: self.clone(), bunker })
    }
}

impl Drop for ExecPermit {
    fn drop(&mut self) {
        let mut running = self.limit.running();
        if let Some(count) = running.get_mut(&self.bunker) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.bunker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_and_leave_nothing() {
        let limit = ExecLimit::new(2);
        let bunker = BunkerId::generate();
        let first = limit.take(bunker).unwrap();
        let second = limit.take(bunker).unwrap();
        assert!(limit.take(bunker).is_none());
        assert!(limit.take(BunkerId::generate()).is_some());
        drop(first);
        assert!(limit.take(bunker).is_some());
        drop(second);
        assert!(limit.running().is_empty());
    }
}

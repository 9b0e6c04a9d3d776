//! Which starts are under way: their outcome is theirs to write down, not the reconciler's, and
//! a repeated request can wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scaibunker_api::ids::BunkerId;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The starts under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Starting {
    ends: Arc<Mutex<HashMap<BunkerId, CancellationToken>>>,
}

/// One start under way; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct StartGuard {
    starting: Starting,
    id: BunkerId,
    /// Dropped after the entry is gone, so that who waited for the end does not find it again.
    _over: DropGuard,
}

impl Starting {
    fn ends(&self) -> MutexGuard<'_, HashMap<BunkerId, CancellationToken>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, id: BunkerId) -> StartGuard {
        let over = CancellationToken::new();
        self.ends().insert(id, over.clone());
        StartGuard { starting: self.clone(), id, _over: over.drop_guard() }
    }

    pub(super) fn contains(&self, id: BunkerId) -> bool {
        self.ends().contains_key(&id)
    }

    /// Returns once no start of this bunker is under way.
    pub(super) async fn over(&self, id: BunkerId) {
        let over = self.ends().get(&id).cloned();
        if let Some(over) = over {
            over.cancelled().await;
        }
    }
}

impl Drop for StartGuard {
    fn drop(&mut self) {
        self.starting.ends().remove(&self.id);
    }
}

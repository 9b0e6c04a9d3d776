//! One request at a time for each of some keys, so that a repeated one never takes room that the first
//! one has taken already.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use scaibunker_api::ids::UserId;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Lives for as long as somebody holds it or waits for it.
type KeyLock = AsyncMutex<()>;

/// The keys in use right now.
#[derive(Debug, Default)]
pub struct KeyLocks {
    held: Mutex<HashMap<(UserId, String), Weak<KeyLock>>>,
}

impl KeyLocks {
    /// Waits until no other request with this key is on its way.
    pub async fn lock(&self, user: UserId, key: &str) -> OwnedMutexGuard<()> {
        self.entry(user, key).lock_owned().await
    }

    fn entry(&self, user: UserId, key: &str) -> Arc<KeyLock> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, lock| lock.strong_count() > 0);
        let slot = held.entry((user, key.to_owned())).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let lock = Arc::new(KeyLock::new(()));
            *slot = Arc::downgrade(&lock);
            lock
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_by_one_and_forgotten_after() {
        let (locks, user) = (KeyLocks::default(), UserId::generate());
        let first = locks.lock(user, "a").await;
        assert!(locks.entry(user, "a").try_lock_owned().is_err());
        assert!(locks.entry(user, "b").try_lock_owned().is_ok());
        drop(first);
        drop(locks.lock(user, "a").await);
        assert!(locks.entry(user, "c").try_lock().is_ok());
        assert!(locks.held.lock().unwrap().keys().all(|(_, key)| key == "c"));
    }
}

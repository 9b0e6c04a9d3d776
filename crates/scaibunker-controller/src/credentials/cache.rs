//! What is remembered of credentials: not for long, not too many, and read once however many ask.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OnceCell;

/// A credential's SHA-256.
type Hash = [u8; 32];

/// A change made elsewhere is seen after this long.
const LIFETIME: Duration = Duration::from_secs(2);

const MAX_ENTRIES: usize = 10_000;

/// Values by credential.
#[derive(Debug)]
pub(super) struct Cache<T> {
    entries: Mutex<Entries<T>>,
}

#[derive(Debug)]
struct Entries<T> {
    by_hash: HashMap<Hash, Entry<T>>,
    /// Oldest first. One whose time differs from its entry's stands for an earlier entry.
    by_age: VecDeque<(Hash, Instant)>,
}

#[derive(Debug)]
struct Entry<T> {
    /// When reading it began.
    since: Instant,
    value: Arc<OnceCell<T>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        let entries = Entries { by_hash: HashMap::new(), by_age: VecDeque::new() };
        Self { entries: Mutex::new(entries) }
    }
}

impl<T: Clone> Cache<T> {
    /// The remembered value, or what `load` finds. Whoever asks meanwhile waits for the same load;
    /// a failed one is not remembered.
    pub(super) async fn get_or_load<E, F>(
        &self,
        hash: Hash,
        now: Instant,
        load: impl FnOnce() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let cell = self.locked().cell(hash, now);
        let loaded = cell.get_or_try_init(load).await.cloned();
        if loaded.is_err() {
            self.locked().forget(hash, &cell);
        }
        loaded
    }

    /// Forgets everything, also what is being read right now.
    pub(super) fn clear(&self) {
        let mut entries = self.locked();
        entries.by_hash.clear();
        entries.by_age.clear();
    }

    fn locked(&self) -> MutexGuard<'_, Entries<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Entries<T> {
    fn cell(&mut self, hash: Hash, now: Instant) -> Arc<OnceCell<T>> {
        if let Some(entry) = self.by_hash.get(&hash)
            && now.duration_since(entry.since) < LIFETIME
        {
            return Arc::clone(&entry.value);
        }
        self.make_room(now);
        let value = Arc::new(OnceCell::new());
        self.by_hash.insert(hash, Entry { since: now, value: Arc::clone(&value) });
        self.by_age.push_back((hash, now));
        value
    }

    /// Drops what is too old, and the oldest when there is too much.
    fn make_room(&mut self, now: Instant) {
        while let Some((hash, since)) = self.by_age.front().copied() {
            if now.duration_since(since) < LIFETIME && self.by_age.len() < MAX_ENTRIES {
                return;
            }
            self.by_age.pop_front();
            if self.by_hash.get(&hash).is_some_and(|entry| entry.since == since) {
                self.by_hash.remove(&hash);
            }
        }
    }

    fn forget(&mut self, hash: Hash, cell: &Arc<OnceCell<T>>) {
        let is_same = |entry: &Entry<T>| Arc::ptr_eq(&entry.value, cell);
        if self.by_hash.get(&hash).is_some_and(is_same) {
            self.by_hash.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A cache, and how often was read past it.
    #[derive(Default)]
    struct Counted {
        cache: Cache<u32>,
        loads: AtomicU32,
    }

    impl Counted {
        async fn get(&self, number: u32, now: Instant) -> u32 {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&number.to_be_bytes());
            let load = || async {
                tokio::task::yield_now().await;
                Ok::<_, ()>(self.loads.fetch_add(1, Ordering::Relaxed))
            };
            self.cache.get_or_load(hash, now, load).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_value_is_read_once_and_again_when_it_is_old_or_dropped() {
        let (counted, now) = (Counted::default(), Instant::now());
        let (first, second) = tokio::join!(counted.get(1, now), counted.get(1, now));
        assert_eq!((first, second), (0, 0));
        assert_eq!(counted.get(1, now + LIFETIME - Duration::from_millis(1)).await, 0);
        assert_eq!(counted.get(1, now + LIFETIME).await, 1);
        counted.cache.clear();
        assert_eq!(counted.get(1, now + LIFETIME).await, 2);
    }

    #[tokio::test]
    async fn what_is_being_read_when_all_is_dropped_is_not_kept() {
        let (counted, now) = (Counted::default(), Instant::now());
        let drop_all = async {
            tokio::task::yield_now().await;
            counted.cache.clear();
        };
        tokio::join!(counted.get(1, now), drop_all);
        assert_eq!(counted.get(1, now).await, 1);
    }

    #[tokio::test]
    async fn failures_are_not_remembered() {
        let (cache, now) = (Cache::<u32>::default(), Instant::now());
        assert_eq!(cache.get_or_load([0; 32], now, || async { Err("no") }).await, Err("no"));
        assert_eq!(cache.get_or_load([0; 32], now, || async { Ok::<_, &str>(1) }).await, Ok(1));
    }

    #[tokio::test]
    async fn no_number_of_credentials_fills_the_memory() {
        let (counted, now) = (Counted::default(), Instant::now());
        for number in 0..(MAX_ENTRIES as u32 + 100) {
            counted.get(number, now).await;
        }
        {
            let entries = counted.cache.locked();
            assert!(entries.by_hash.len() <= MAX_ENTRIES && entries.by_age.len() <= MAX_ENTRIES);
        }
        let loads = counted.loads.load(Ordering::Relaxed);
        counted.get(MAX_ENTRIES as u32, now).await;
        assert_eq!(counted.loads.load(Ordering::Relaxed), loads, "the newest are kept");
        counted.get(0, now).await;
        assert_eq!(counted.loads.load(Ordering::Relaxed), loads + 1, "the oldest are not");
    }
}

//! When keys were used last: to within a minute, and written down beside requests.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::ids::ApiKeyId;

/// A later use is not worth another write.
const PRECISION: SignedDuration = SignedDuration::from_secs(60);

/// Uses that wait to be written; more keys at once are noted next time.
const MAX_WAITING: usize = 10_000;

/// Uses that are not written down yet.
#[derive(Debug, Default)]
pub(super) struct LastUsed(Mutex<HashMap<ApiKeyId, Timestamp>>);

impl LastUsed {
    /// Notes a use at `now`, if the one written down is from long before.
    pub(super) fn note(&self, key: ApiKeyId, written: Option<Timestamp>, now: Timestamp) {
        if written.is_some_and(|written| now.duration_since(written) < PRECISION) {
            return;
        }
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_WAITING {
            waiting.entry(key).or_insert(now);
        }
    }

    /// What has to be written down.
    pub(super) fn take(&self) -> Vec<(ApiKeyId, Timestamp)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_written_once_a_minute() {
        let (uses, key) = (LastUsed::default(), ApiKeyId::generate());
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        uses.note(key, None, at(1_000));
        uses.note(key, None, at(1_002));
        assert_eq!(uses.take(), [(key, at(1_000))]);
        uses.note(key, Some(at(1_000)), at(1_059));
        assert_eq!(uses.take(), []);
        uses.note(key, Some(at(1_000)), at(1_060));
        assert_eq!(uses.take(), [(key, at(1_060))]);
    }
}

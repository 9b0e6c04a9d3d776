//! Sliding windows in the memory of one process.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use crate::ledger::{RateState, RateWindow};

/// Seconds that a request counts for. The second it came in counts as a whole, so that no 60
/// seconds hold more than the limit.
const SECONDS: i64 = 61;

/// Keys that are kept apart; more share one window.
const MAX_KEYS: usize = 65_536;

/// Everybody's requests of the last minute.
#[derive(Default)]
pub(super) struct LocalWindows {
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    by_key: HashMap<String, Window>,
    overflow: Window,
    /// When the windows that are over were last removed.
    swept_at: i64,
}

/// Requests by second, oldest first.
#[derive(Default)]
struct Window {
    seconds: VecDeque<(i64, u32)>,
    total: u32,
}

impl LocalWindows {
    /// Counts a request in every window, or in none: when one is full.
    pub(super) fn admit(&self, windows: &[RateWindow], now: Timestamp) -> Vec<RateState> {
        let second = now.as_second();
        let mut all = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        all.sweep(second);
        let has_room = windows.iter().all(|window| {
            let counted = all.window(&window.key);
            counted.forget(second);
            counted.total < window.limit
        });
        let mut states = Vec::with_capacity(windows.len());
        for RateWindow { key, limit } in windows {
            let counted = all.window(key);
            let is_full = counted.total >= *limit;
            if has_room {
                counted.count(second);
            }
            states.push(RateState {
                remaining: limit.saturating_sub(counted.total),
                reset_after: counted.newest().map_or(Duration::ZERO, |at| until(at, now)),
                retry_after: is_full
                    .then(|| counted.oldest().map_or(Duration::from_secs(60), |at| until(at, now))),
            });
        }
        states
    }
}

/// How long until a request of the second `at` no longer counts.
fn until(at: i64, now: Timestamp) -> Duration {
    let left_ms = (at + SECONDS).saturating_mul(1000).saturating_sub(now.as_millisecond());
    Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
}

impl Windows {
    fn window(&mut self, key: &str) -> &mut Window {
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= MAX_KEYS {
                return &mut self.overflow;
            }
            self.by_key.insert(key.to_owned(), Window::default());
        }
        self.by_key.get_mut(key).unwrap_or(&mut self.overflow)
    }

    fn sweep(&mut self, second: i64) {
        let is_due = second.saturating_sub(self.swept_at).unsigned_abs() >= 10;
        if is_due {
            self.swept_at = second;
            self.by_key.retain(|_, window| {
                window.forget(second);
                window.total > 0
            });
        }
    }
}

impl Window {
    fn forget(&mut self, second: i64) {
        while let Some((at, count)) = self.seconds.front()
            && at.saturating_add(SECONDS) <= second
        {
            self.total -= count;
            self.seconds.pop_front();
        }
    }

    fn count(&mut self, second: i64) {
        self.total = self.total.saturating_add(1);
        match self.seconds.back_mut() {
            // A clock that was set back counts on in the newest second.
            Some((at, count)) if *at >= second => *count += 1,
            _ => self.seconds.push_back((second, 1)),
        }
    }

    fn oldest(&self) -> Option<i64> {
        self.seconds.front().map(|(at, _)| *at)
    }

    fn newest(&self) -> Option<i64> {
        self.seconds.back().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(key: &str, limit: u32) -> RateWindow {
        RateWindow { key: key.to_owned(), limit }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
    }

    proptest! {
        #[test]
        fn no_minute_holds_more_than_the_limit(
            limit in 1u32..20,
            steps in prop::collection::vec(0i64..20_000, 1..200),
        ) {
            let windows = LocalWindows::default();
            let (mut now, mut admitted) = (0, Vec::new());
            for step in steps {
                now += step;
                let state = windows.admit(&[window("a", limit)], at(now))[0];
                if state.retry_after.is_none() {
                    admitted.push(now);
                }
                let in_last_minute = admitted.iter().filter(|time| **time > now - 60_000).count();
                prop_assert!(in_last_minute <= limit as usize);
            }
        }

        #[test]
        fn who_waits_as_told_is_admitted(limit in 1u32..5, first in 0i64..5_000) {
            let windows = LocalWindows::default();
            let all = [window("a", limit)];
            for _ in 0..limit {
                prop_assert_eq!(windows.admit(&all, at(first))[0].retry_after, None);
            }
            let refused = windows.admit(&all, at(first + 10))[0];
            prop_assert_eq!(refused.remaining, 0);
            let wait = i64::try_from(refused.retry_after.unwrap().as_millis()).unwrap();
            prop_assert_eq!(windows.admit(&all, at(first + 10 + wait))[0].retry_after, None);
        }
    }

    #[test]
    fn a_request_counts_in_all_windows_or_in_none() {
        let windows = LocalWindows::default();
        assert_eq!(windows.admit(&[window("a", 1), window("b", 5)], at(0))[1].remaining, 4);
        let refused = windows.admit(&[window("a", 1), window("b", 5)], at(1));
        assert!(refused[0].retry_after.is_some());
        assert_eq!(refused[1], RateState { retry_after: None, remaining: 4, ..refused[1] });
    }

    #[test]
    fn keys_have_a_bound() {
        let windows = LocalWindows::default();
        for key in 0..MAX_KEYS + 10 {
            windows.admit(&[window(&key.to_string(), 1)], at(0));
        }
        let late = windows.admit(&[window("late", 1)], at(0))[0];
        assert!(late.retry_after.is_some(), "newcomers share a window");
        assert!(windows.admit(&[window("late", 1)], at(62_000))[0].retry_after.is_none());
    }
}

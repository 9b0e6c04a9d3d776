//! Requests in the last minute, from two counters: this minute's and the one before it, which
//! counts for the part of it that is still within 60 seconds. A caller's requests are taken to have
//! been spread evenly over that minute.

use std::time::Duration;

/// Length of a window.
pub const WINDOW_MS: u64 = 60_000;

/// The two counters of a window, before the request in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub previous: u64,
    pub current: u64,
    /// Milliseconds since the current minute began, below [`WINDOW_MS`].
    pub elapsed_ms: u64,
}

impl Counted {
    /// Requests in the last 60 seconds, rounded up.
    #[must_use]
    pub fn used(&self) -> u64 {
        let weighted = self.previous.saturating_mul(WINDOW_MS - self.elapsed_ms);
        self.current.saturating_add(weighted.div_ceil(WINDOW_MS))
    }

    /// How long to wait until one more request stays within `limit`, if none comes meanwhile; `None`
    /// if it does now. With a limit of zero that is never: a window's length is told.
    #[must_use]
    pub fn wait(&self, limit: u32) -> Option<Duration> {
        let room = u64::from(limit).saturating_sub(1);
        let Self { previous, current, elapsed_ms } = *self;
        if limit > 0 && self.used() <= room {
            return None;
        }
        let wait_ms = if limit == 0 {
            WINDOW_MS
        } else if current <= room {
            decayed_after(previous, room - current) - elapsed_ms
        } else {
            WINDOW_MS - elapsed_ms + decayed_after(current, room)
        };
        Some(Duration::from_millis(wait_ms.max(1)))
    }

    /// When the window will be empty, if no more requests come.
    #[must_use]
    pub fn empty_after(&self) -> Duration {
        let rest = WINDOW_MS - self.elapsed_ms;
        Duration::from_millis(match (self.previous, self.current) {
            (0, 0) => 0,
            (_, 0) => rest,
            _ => rest + WINDOW_MS,
        })
    }
}

/// Milliseconds into the next minute after which `count` of this one weigh at most `room`.
fn decayed_after(count: u64, room: u64) -> u64 {
    if count <= room {
        return 0;
    }
    // Only weights that round up to at most `room` will do.
    WINDOW_MS - room.saturating_mul(WINDOW_MS) / count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn who_waits_as_long_as_told_is_admitted_and_not_much_sooner(
            previous in 0u64..200,
            current in 0u64..200,
            elapsed_ms in 0..WINDOW_MS,
            limit in 1u32..150,
        ) {
            let counted = Counted { previous, current, elapsed_ms };
            let after = |wait_ms: u64| match elapsed_ms + wait_ms {
                at if at < WINDOW_MS => Counted { elapsed_ms: at, ..counted },
                at if at < 2 * WINDOW_MS => {
                    Counted { previous: current, current: 0, elapsed_ms: at - WINDOW_MS }
                }
                _ => Counted { previous: 0, current: 0, elapsed_ms: 0 },
            };
            match counted.wait(limit) {
                None => prop_assert!(counted.used() < u64::from(limit)),
                Some(wait) => {
                    let wait = wait.as_millis() as u64;
                    prop_assert!(after(wait).wait(limit).is_none());
                    prop_assert!(wait < 3 || after(wait - 3).wait(limit).is_some());
                }
            }
        }

        /// Whatever the times: in no minute of the clock is more admitted than the limit.
        #[test]
        fn a_minute_never_admits_more_than_its_limit(
            mut times in proptest::collection::vec(0..4 * WINDOW_MS, 1..300),
            limit in 1u32..40,
        ) {
            times.sort_unstable();
            let mut counts = [0u64; 5];
            for time in times {
                let minute = (time / WINDOW_MS) as usize;
                let previous = minute.checked_sub(1).map_or(0, |before| counts[before]);
                let elapsed_ms = time % WINDOW_MS;
                if (Counted { previous, current: counts[minute], elapsed_ms }).wait(limit).is_none() {
                    counts[minute] += 1;
                }
            }
            prop_assert!(counts.iter().all(|&count| count <= u64::from(limit)));
        }
    }

    #[test]
    fn a_limit_of_zero_admits_nothing() {
        let empty = Counted { previous: 0, current: 0, elapsed_ms: 0 };
        assert!(empty.wait(0).is_some() && empty.wait(1).is_none());
        assert_eq!(empty.empty_after(), Duration::ZERO);
    }
}

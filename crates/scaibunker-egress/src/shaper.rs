//! Holds what a bunker sends to its bandwidth.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(20);

/// One bandwidth, for everything that a bunker sends.
#[derive(Debug)]
pub struct Shaper {
    ns_per_byte: f64,
    /// When everything that was sent so far would have been sent at that bandwidth.
    paid_until: Mutex<Instant>,
}

impl Shaper {
    pub fn new(mbit: u32) -> Self {
        Self {
            ns_per_byte: 8_000.0 / f64::from(mbit.max(1)),
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// Counts bytes that were sent; how long to wait before the next.
    pub fn charge(&self, bytes: usize) -> Duration {
        let now = Instant::now();
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let cost = Duration::from_nanos((bytes as f64 * self.ns_per_byte) as u64);
        *paid_until = (*paid_until).max(earliest) + cost;
        paid_until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_burst_every_byte_takes_its_time() {
        let shaper = Shaper::new(8);
        // A byte takes a microsecond; 20 ms are free after a pause.
        *shaper.paid_until.lock().unwrap() = Instant::now() - Duration::from_secs(1);
        assert_eq!(shaper.charge(10_000), Duration::ZERO);
        let wait = shaper.charge(110_000);
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
        assert!(shaper.charge(1_000) > wait - Duration::from_millis(10));
    }
}

//! When a bunker last worked.
//!
//! It works while a command, a shell or a call on its files is in progress, and while its VMM is
//! busy: a process that was left behind by a command counts as well. A bunker that stands still
//! does not work, whatever was in progress when it was stopped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use scaibunker_api::ids::BunkerId;

use crate::vitals::Vitals;

/// How often the CPU time of every running bunker is looked at.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// A VMM is busy when it uses more than this part of one CPU, in thousandths. An idle clone uses 3
/// to 10 under tcg: 0 to 20 ms of CPU time between two looks (measured, busybox, 1 vCPU). One with
/// an endless loop uses all that it may, which is 100 at least, or its share of a crowded host.
const BUSY_MILLICORES: u128 = 30;

/// The activity of one bunker.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// `None` before it runs.
    last: Option<Timestamp>,
    in_progress: usize,
    stands_still: bool,
}

/// A call in progress; the bunker works until this is dropped.
#[derive(Debug)]
pub struct Working(Arc<Activity>);

impl Activity {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bunker runs, and has worked at `last`.
    pub fn run(&self, last: Timestamp) {
        let mut known = self.known();
        known.last = Some(last);
        known.stands_still = false;
    }

    /// The bunker stands still, and has last worked at the given time.
    pub fn stand_still(&self, last: Timestamp) {
        let mut known = self.known();
        known.last = Some(last);
        known.stands_still = true;
    }

    /// Counts a call for as long as the result is kept.
    #[must_use]
    pub fn work(self: &Arc<Self>) -> Working {
        self.known().in_progress += 1;
        Working(Arc::clone(self))
    }

    /// The bunker is working right now.
    pub fn touch(&self) {
        self.known().touch();
    }

    /// When the bunker last worked; `None` before it runs.
    #[must_use]
    pub fn last_active_at(&self) -> Option<Timestamp> {
        let mut known = self.known();
        if known.in_progress > 0 && known.last.is_some() {
            known.touch();
        }
        known.last
    }
}

impl Known {
    fn touch(&mut self) {
        if !self.stands_still {
            self.last = Some(Timestamp::now());
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.in_progress -= 1;
        known.touch();
    }
}

/// Finds the busy ones among running bunkers by the CPU time that they used since it was last
/// asked.
#[derive(Debug, Default)]
pub struct CpuSampler {
    earlier: HashMap<BunkerId, Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    cpu_time: Duration,
}

impl CpuSampler {
    /// Looks at every running bunker; reads one file of `/proc` for each. One that has ended
    /// meanwhile is left out.
    pub fn busy(&mut self, running: &[(BunkerId, Vitals)]) -> Vec<BunkerId> {
        let now = Instant::now();
        let used = running.iter().filter_map(|(id, vitals)| Some((*id, vitals.cpu_time().ok()?)));
        self.compare(used, now)
    }

    /// One that was not there the last time, or stood still then, is not judged yet.
    fn compare(
        &mut self,
        used: impl Iterator<Item = (BunkerId, Duration)>,
        at: Instant,
    ) -> Vec<BunkerId> {
        let samples: HashMap<_, _> =
            used.map(|(id, cpu_time)| (id, Sample { at, cpu_time })).collect();
        let earlier = std::mem::replace(&mut self.earlier, samples);
        let is_busy = |(id, sample): (&BunkerId, &Sample)| {
            let before = earlier.get(id)?;
            let elapsed = sample.at.duration_since(before.at);
            let used = sample.cpu_time.saturating_sub(before.cpu_time);
            (used.as_micros() * 1000 > elapsed.as_micros() * BUSY_MILLICORES).then_some(*id)
        };
        self.earlier.iter().filter_map(is_busy).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_AGO: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_bunker_works_while_a_call_is_in_progress_and_until_it_ends() {
        let activity = Arc::new(Activity::default());
        assert_eq!(activity.last_active_at(), None);
        activity.run(LONG_AGO);
        assert_eq!(activity.last_active_at(), Some(LONG_AGO));
        let before = Timestamp::now();
        let (one, other) = (activity.work(), activity.work());
        drop(one);
        std::thread::sleep(Duration::from_millis(2));
        let during = activity.last_active_at().unwrap();
        assert!(during >= before);
        drop(other);
        let after = activity.last_active_at().unwrap();
        assert!(after >= during);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(activity.last_active_at(), Some(after));
        activity.touch();
        assert!(activity.last_active_at().unwrap() > after);
    }

    #[test]
    fn a_bunker_that_stands_still_does_not_work() {
        let activity = Arc::new(Activity::default());
        activity.run(Timestamp::now());
        let standing = activity.work();
        activity.stand_still(LONG_AGO);
        activity.touch();
        assert_eq!(activity.last_active_at(), Some(LONG_AGO));
        drop(standing);
        assert_eq!(activity.last_active_at(), Some(LONG_AGO));
        activity.run(LONG_AGO);
        activity.touch();
        assert!(activity.last_active_at().unwrap() > LONG_AGO);
    }

    #[test]
    fn who_uses_the_cpu_is_busy_from_its_second_sample_on() {
        let (idle, busy, late) = (BunkerId::generate(), BunkerId::generate(), BunkerId::generate());
        let mut sampler = CpuSampler::default();
        let (first, second) = (Instant::now(), Instant::now() + SAMPLE_INTERVAL);
        let used = |ms| Duration::from_millis(ms);
        let before = [(idle, used(9_000)), (busy, used(9_000))];
        assert!(sampler.compare(before.into_iter(), first).is_empty());
        let after = [(idle, used(9_050)), (busy, used(9_150)), (late, used(60_000))];
        assert_eq!(sampler.compare(after.into_iter(), second), [busy]);
        let third = second + SAMPLE_INTERVAL;
        assert!(sampler.compare([(late, used(60_000))].into_iter(), third).is_empty());
        assert_eq!(sampler.earlier.len(), 1);
    }
}

//! The ledger of a single process.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use scaibunker_api::ids::{BunkerId, WorkerId};
use tokio::time::Instant;

use super::{Ledger, LedgerError, LedgerSnapshot, RateState, RateWindow, Reserved};
use crate::domain::{
    quota::{Amounts, AppliedProfile, Bucket, Charge},
    quota_drift::counters_of,
    rate::{Counted, WINDOW_MS},
};

/// Windows that are looked at for emptiness each time a minute begins; more than any set of callers
/// that a single process serves.
const MAX_WINDOWS: usize = 100_000;

/// Counters in this process's memory.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the charges are those of the database.
    filled: bool,
    charges: HashMap<BunkerId, Charge>,
    counters: HashMap<Bucket, Amounts>,
    rates: HashMap<String, Rate>,
    /// The minute in which the rates were last cleared of empty ones.
    cleared: u64,
    alive_until: HashMap<WorkerId, Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    minute: u64,
    previous: u64,
    current: u64,
}

impl Rate {
    /// The same counters, seen from a later minute.
    fn at(self, minute: u64) -> Self {
        match minute.saturating_sub(self.minute) {
            0 => self,
            1 => Self { minute, previous: self.current, current: 0 },
            _ => Self { minute, previous: 0, current: 0 },
        }
    }
}

impl MemoryLedger {
    fn state(&self) -> MutexGuard<'_, State> {
        // No step below panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filled(&self) -> Result<MutexGuard<'_, State>, LedgerError> {
        let state = self.state();
        if state.filled { Ok(state) } else { Err(LedgerError::Lost) }
    }
}

impl State {
    fn counted(&self, bucket: Bucket) -> Amounts {
        self.counters.get(&bucket).copied().unwrap_or_default()
    }

    fn check(&self, profiles: &[AppliedProfile], asked: Amounts) -> Reserved {
        let mut refusals = profiles
            .iter()
            .filter_map(|profile| profile.exceeded(self.counted(profile.bucket), asked));
        refusals.next().map_or(Ok(()), Err)
    }

    fn add(&mut self, charge: &Charge) {
        for bucket in &charge.buckets {
            let counter = self.counters.entry(*bucket).or_default();
            *counter = counter.plus(charge.counted_in(*bucket));
        }
    }

    fn subtract(&mut self, charge: &Charge) {
        for bucket in &charge.buckets {
            let Entry::Occupied(mut counter) = self.counters.entry(*bucket) else { continue };
            *counter.get_mut() = counter.get().minus(charge.counted_in(*bucket));
            if *counter.get() == Amounts::default() {
                counter.remove();
            }
        }
    }

    fn set(&mut self, bunker: BunkerId, charge: Option<&Charge>) {
        if let Some(before) = self.charges.remove(&bunker) {
            self.subtract(&before);
        }
        if let Some(charge) = charge {
            self.add(charge);
            self.charges.insert(bunker, charge.clone());
        }
    }

    fn clear_rates(&mut self, minute: u64) {
        if self.cleared != minute || self.rates.len() >= MAX_WINDOWS {
            self.rates.retain(|_, rate| rate.minute + 1 >= minute);
            self.cleared = minute;
        }
        if self.rates.len() >= MAX_WINDOWS {
            // Forgetting lets a few requests more through; growing for ever ends the process.
            self.rates.clear();
        }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    fn kind(&self) -> &'static str {
        "in_process"
    }

    async fn reserve(
        &self,
        bunker: BunkerId,
        charge: &Charge,
        profiles: &[AppliedProfile],
    ) -> Result<Reserved, LedgerError> {
        let mut state = self.filled()?;
        if state.charges.contains_key(&bunker) {
            return Ok(Ok(()));
        }
        if let Err(exceeded) = state.check(profiles, charge.amounts) {
            return Ok(Err(exceeded));
        }
        state.set(bunker, Some(charge));
        Ok(Ok(()))
    }

    async fn release(&self, bunker: BunkerId) -> Result<bool, LedgerError> {
        let mut state = self.filled()?;
        let was_charged = state.charges.contains_key(&bunker);
        state.set(bunker, None);
        Ok(was_charged)
    }

    async fn pause(&self, bunker: BunkerId) -> Result<bool, LedgerError> {
        let mut state = self.filled()?;
        match state.charges.get(&bunker).cloned() {
            Some(charge) if !charge.paused => {
                state.set(bunker, Some(&Charge { paused: true, ..charge }));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn resume(
        &self,
        bunker: BunkerId,
        profiles: &[AppliedProfile],
    ) -> Result<Reserved, LedgerError> {
        let mut state = self.filled()?;
        let paused = state.charges.get(&bunker).filter(|charge| charge.paused).cloned();
        let Some(charge) = paused else { return Ok(Ok(())) };
        // A profile that came to apply meanwhile does not count this bunker.
        let counting: Vec<_> = profiles
            .iter()
            .filter(|profile| charge.buckets.contains(&profile.bucket))
            .cloned()
            .collect();
        if let Err(exceeded) = state.check(&counting, charge.amounts.only_cpu()) {
            return Ok(Err(exceeded));
        }
        state.set(bunker, Some(&Charge { paused: false, ..charge }));
        Ok(Ok(()))
    }

    async fn usage(&self, buckets: &[Bucket]) -> Result<Vec<Amounts>, LedgerError> {
        let state = self.filled()?;
        Ok(buckets.iter().map(|bucket| state.counted(*bucket)).collect())
    }

    async fn snapshot(&self) -> Result<LedgerSnapshot, LedgerError> {
        let state = self.filled()?;
        Ok(LedgerSnapshot { charges: state.charges.clone(), counters: state.counters.clone() })
    }

    async fn correct(&self, bunker: BunkerId, charge: Option<&Charge>) -> Result<(), LedgerError> {
        self.filled()?.set(bunker, charge);
        Ok(())
    }

    async fn recount(&self) -> Result<(), LedgerError> {
        let mut state = self.filled()?;
        state.counters = counters_of(state.charges.values());
        Ok(())
    }

    async fn rebuild(&self, charges: &HashMap<BunkerId, Charge>) -> Result<(), LedgerError> {
        let mut state = self.state();
        if !state.filled {
            state.counters = counters_of(charges.values());
            state.charges = charges.clone();
            state.filled = true;
        }
        Ok(())
    }

    async fn admit(
        &self,
        windows: &[RateWindow],
        now: Timestamp,
    ) -> Result<Vec<RateState>, LedgerError> {
        let now_ms = u64::try_from(now.as_millisecond()).unwrap_or_default();
        let (minute, elapsed_ms) = (now_ms / WINDOW_MS, now_ms % WINDOW_MS);
        let mut state = self.state();
        state.clear_rates(minute);
        let empty = Rate { minute, previous: 0, current: 0 };
        let mut counts: Vec<_> = windows
            .iter()
            .map(|window| {
                let rate = state.rates.get(&window.key).map_or(empty, |rate| rate.at(minute));
                Counted { previous: rate.previous, current: rate.current, elapsed_ms }
            })
            .collect();
        let waits: Vec<_> = counts
            .iter()
            .zip(windows)
            .map(|(counted, window)| counted.wait(window.limit))
            .collect();
        if waits.iter().all(Option::is_none) {
            for (counted, window) in counts.iter_mut().zip(windows) {
                counted.current += 1;
                let rate = Rate { minute, previous: counted.previous, current: counted.current };
                state.rates.insert(window.key.clone(), rate);
            }
        }
        let states = counts.iter().zip(windows).zip(waits);
        Ok(states.map(|((counted, window), wait)| RateState::of(counted, window, wait)).collect())
    }

    async fn note_alive(&self, worker: WorkerId, lifetime: Duration) -> Result<(), LedgerError> {
        self.state().alive_until.insert(worker, Instant::now() + lifetime);
        Ok(())
    }

    async fn alive(&self) -> Result<Vec<WorkerId>, LedgerError> {
        let (mut state, now) = (self.state(), Instant::now());
        state.alive_until.retain(|_, until| *until > now);
        Ok(state.alive_until.keys().copied().collect())
    }

    async fn ping(&self) -> Result<(), LedgerError> {
        Ok(())
    }
}

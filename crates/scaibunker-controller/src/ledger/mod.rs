//! What controllers count together: quotas, rates, who is alive. In one process, or in Redis.
//!
//! The ledger keeps, for each bunker, what it is charged and where, so that every step may be
//! repeated. It is no source of truth: all of it is rebuilt from the database and from heartbeats.

mod memory;
mod redis;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use scaibunker_api::ids::{BunkerId, WorkerId};

pub use self::{
    memory::MemoryLedger,
    redis::{InvalidRedisUrl, RedisLedger, RedisUrl},
};
use crate::domain::{
    quota::{Amounts, AppliedProfile, Bucket, Charge, Exceeded},
    rate::Counted,
};

/// The ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It holds nothing, not even the mark that it was filled: it must be [rebuilt](Ledger::rebuild).
    #[error("the ledger has lost its contents")]
    Lost,
    #[error("the ledger does not answer: {action} failed")]
    Unavailable { action: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the ledger holds something unreadable in {what}")]
    Corrupt { what: &'static str },
}

/// A reservation, or the cap that stood against it.
pub type Reserved = Result<(), Exceeded>;

/// The last minute of somebody's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateWindow {
    /// Such as `key:{id}`.
    pub key: String,
    /// Requests in any 60 seconds.
    pub limit: u32,
}

/// A window after a request was counted, or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    pub remaining: u32,
    /// When the window will be empty if no more requests come.
    pub reset_after: Duration,
    /// How long a refused request has to wait; `None` if this window admits it.
    pub retry_after: Option<Duration>,
}

impl RateState {
    fn of(counted: &Counted, window: &RateWindow, retry_after: Option<Duration>) -> Self {
        let used = u32::try_from(counted.used()).unwrap_or(u32::MAX);
        let remaining = window.limit.saturating_sub(used);
        Self { remaining, reset_after: counted.empty_after(), retry_after }
    }
}

/// Counters that controllers share. Each call is one atomic step.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Such as `redis`.
    fn kind(&self) -> &'static str;

    /// Charges a bunker to all its buckets, or to none: when a profile's cap would be exceeded.
    /// A bunker that is charged already stays as it is.
    async fn reserve(
        &self,
        bunker: BunkerId,
        charge: &Charge,
        profiles: &[AppliedProfile],
    ) -> Result<Reserved, LedgerError>;

    /// Gives back everything a bunker is charged; `false` if that is nothing (any more).
    async fn release(&self, bunker: BunkerId) -> Result<bool, LedgerError>;

    /// Gives a running bunker's CPU back; `false` if the bunker is not charged or paused already.
    async fn pause(&self, bunker: BunkerId) -> Result<bool, LedgerError>;

    /// Takes a paused bunker's CPU again, in the buckets it was charged to, unless a cap of
    /// `profiles` stands against it. A bunker that is not paused stays as it is.
    async fn resume(
        &self,
        bunker: BunkerId,
        profiles: &[AppliedProfile],
    ) -> Result<Reserved, LedgerError>;

    /// What is counted in each of `buckets`.
    async fn usage(&self, buckets: &[Bucket]) -> Result<Vec<Amounts>, LedgerError>;

    /// Every bunker's charge, and every bucket's counters that are not zero, as of one moment.
    async fn snapshot(&self) -> Result<LedgerSnapshot, LedgerError>;

    /// Makes a bunker's charge what it must be, or nothing, whatever it was and whatever the caps.
    async fn correct(&self, bunker: BunkerId, charge: Option<&Charge>) -> Result<(), LedgerError>;

    /// Makes every counter the sum of the charges.
    async fn recount(&self) -> Result<(), LedgerError>;

    /// Fills a ledger that has [lost](LedgerError::Lost) its contents, unless another controller did.
    async fn rebuild(&self, charges: &HashMap<BunkerId, Charge>) -> Result<(), LedgerError>;

    /// Counts a request in every window, or in none: when one is full.
    async fn admit(
        &self,
        windows: &[RateWindow],
        now: Timestamp,
    ) -> Result<Vec<RateState>, LedgerError>;

    /// Notes that a worker was heard of; forgotten after `lifetime`.
    async fn note_alive(&self, worker: WorkerId, lifetime: Duration) -> Result<(), LedgerError>;

    /// The workers that some controller heard of lately.
    async fn alive(&self) -> Result<Vec<WorkerId>, LedgerError>;

    /// Answers whether the ledger does.
    async fn ping(&self) -> Result<(), LedgerError>;
}

/// All that a ledger counts for quotas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerSnapshot {
    pub charges: HashMap<BunkerId, Charge>,
    pub counters: HashMap<Bucket, Amounts>,
}

/// The ledger that a process uses.
pub type SharedLedger = Arc<dyn Ledger>;

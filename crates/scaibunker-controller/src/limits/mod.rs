//! How many requests a minute who may make.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use scaibunker_api::error::{ErrorBody, ErrorCode};

use crate::{
    config::RateLimits,
    domain::actor::Actor,
    failure::chain,
    ledger::{Ledger as _, MemoryLedger, RateState, RateWindow, SharedLedger},
    metrics::Metrics,
};

/// Refusals of one user that are written to the audit log, a minute.
const RECORDED_REFUSALS: u32 = 60;

/// The limiter; one for the process.
pub struct Limits {
    limits: RateLimits,
    ledger: SharedLedger,
    /// Counts strangers, and everybody while the ledger does not answer: a limit that each
    /// controller counts for itself is looser than the one asked for, but refusing everybody, or
    /// nobody, would make the ledger's outage everybody's.
    local: MemoryLedger,
    metrics: Arc<Metrics>,
}

/// The tightest window of a caller, after the request at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub limit: u32,
    pub remaining: u32,
    /// Seconds since the Unix epoch.
    pub reset_at: i64,
}

/// What the limiter says to a request.
#[derive(Debug)]
pub struct Admission {
    /// `None`: nothing limits the caller.
    pub allowance: Option<Allowance>,
    pub refusal: Option<ErrorBody>,
}

impl Limits {
    /// A limiter that counts callers in `ledger`.
    #[must_use]
    pub fn new(limits: RateLimits, ledger: SharedLedger, metrics: Arc<Metrics>) -> Self {
        Self { limits, ledger, local: MemoryLedger::default(), metrics }
    }

    /// Counts a request of a known caller, in all its windows or in none.
    pub async fn admit(&self, actor: &Actor) -> Admission {
        let windows = self.windows_of(actor);
        if windows.is_empty() {
            return Admission { allowance: None, refusal: None };
        }
        let now = Timestamp::now();
        let states = self.count(&windows, now).await;
        let refusal = refusal_of(&windows, &states);
        if refusal.is_some() {
            self.metrics.rate_limited.inc();
        }
        Admission { allowance: allowance_of(&windows, &states, now), refusal }
    }

    async fn count(&self, windows: &[RateWindow], now: Timestamp) -> Vec<RateState> {
        match self.ledger.admit(windows, now).await {
            Ok(states) => states,
            Err(error) => {
                self.metrics.ledger_failures.inc();
                tracing::warn!(error = chain(&error), "this process counts rates alone");
                self.count_here(windows, now).await
            }
        }
    }

    async fn count_here(&self, windows: &[RateWindow], now: Timestamp) -> Vec<RateState> {
        // Memory always answers.
        self.local.admit(windows, now).await.unwrap_or_default()
    }

    /// Counts a request whose credential was not accepted; `Some` once there were too many. A
    /// request that is recognised is never refused for its neighbours' failures: many callers may
    /// share an address.
    pub async fn refuse_stranger(&self, ip: IpAddr) -> Option<ErrorBody> {
        let limit = self.limits.strangers?;
        let window = [RateWindow { key: format!("ip:{}", network_of(ip)), limit }];
        let states = self.count_here(&window, Timestamp::now()).await;
        let refusal = refusal_of(&window, &states);
        if refusal.is_some() {
            self.metrics.rate_limited.inc();
        }
        refusal
    }

    /// Whether the audit log shall have one more refusal of this caller: who is over its limits
    /// could otherwise fill it.
    pub async fn is_recorded(&self, actor: &Actor) -> bool {
        let key = format!("refused:{}", actor.user_id);
        let window = [RateWindow { key, limit: RECORDED_REFUSALS }];
        let states = self.count_here(&window, Timestamp::now()).await;
        states.iter().all(|state| state.retry_after.is_none())
    }

    fn windows_of(&self, actor: &Actor) -> Vec<RateWindow> {
        let RateLimits { key, user, tenant, .. } = self.limits;
        let key = actor.api_key_id.zip(key).map(|(id, limit)| (format!("key:{id}"), limit));
        let user = user.map(|limit| (format!("user:{}", actor.user_id), limit));
        let tenant = tenant.map(|limit| (format!("tenant:{}", actor.tenant_id), limit));
        let windows = [key, user, tenant].into_iter().flatten();
        windows.map(|(key, limit)| RateWindow { key, limit }).collect()
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

fn refusal_of(windows: &[RateWindow], states: &[RateState]) -> Option<ErrorBody> {
    let refused = windows.iter().zip(states).filter_map(|(window, state)| {
        let wait = state.retry_after?;
        Some((wait, window))
    });
    let (wait, window) = refused.max_by_key(|(wait, _)| *wait)?;
    let seconds = wait.as_millis().div_ceil(1000).max(1) as u64;
    let whose = match window.key.split(':').next() {
        Some("key") => "this API key",
        Some("user") => "this user",
        Some("tenant") => "this tenant",
        _ => "failed attempts from this address",
    };
    let message = format!(
        "{whose}: more than {} requests in a minute; try again in {seconds} s",
        window.limit
    );
    Some(ErrorBody {
        retry_after: Some(seconds),
        ..ErrorBody::new(ErrorCode::RateLimited, message)
    })
}

fn allowance_of(windows: &[RateWindow], states: &[RateState], now: Timestamp) -> Option<Allowance> {
    let tightest = windows.iter().zip(states).min_by_key(|(_, state)| state.remaining)?;
    let (window, state) = tightest;
    let until_reset = state.reset_after.as_millis().div_ceil(1000) as i64;
    Some(Allowance {
        limit: window.limit,
        remaining: state.remaining,
        reset_at: now.as_second().saturating_add(until_reset),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_an_ipv6_network_are_one() {
        let a: IpAddr = "2001:db8::1".parse().unwrap();
        let b: IpAddr = "2001:db8::ffff:1".parse().unwrap();
        let c: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        assert_eq!(network_of(a), network_of(b));
        assert_ne!(network_of(a), network_of(c));
    }

    #[test]
    fn the_tightest_window_is_shown_and_the_longest_wait_told() {
        let window = |key: &str, limit| RateWindow { key: key.to_owned(), limit };
        let state = |remaining, wait: Option<u64>| RateState {
            remaining,
            reset_after: std::time::Duration::from_millis(1500),
            retry_after: wait.map(std::time::Duration::from_millis),
        };
        let windows = [window("key:a", 60), window("user:b", 120)];
        let now = Timestamp::from_second(1000).unwrap();
        let states = [state(5, None), state(3, None)];
        assert_eq!(refusal_of(&windows, &states), None);
        let shown = allowance_of(&windows, &states, now);
        assert_eq!(shown, Some(Allowance { limit: 120, remaining: 3, reset_at: 1002 }));
        let refusal = refusal_of(&windows, &[state(0, Some(200)), state(0, Some(2100))]).unwrap();
        assert_eq!(refusal.retry_after, Some(3));
        assert!(refusal.message.contains("120 requests"), "{}", refusal.message);
    }
}

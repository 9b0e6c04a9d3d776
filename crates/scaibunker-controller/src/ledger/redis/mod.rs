//! The ledger that several controllers share, in one Redis or Valkey server (not a cluster).

mod scripts;
mod text;

use std::{collections::HashMap, fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use redis::{
    Client, FromRedisValue, RedisError, Script, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use scaibunker_api::ids::{BunkerId, WorkerId};

use self::{
    scripts::Scripts,
    text::{exceeded_of, snapshot_of, text_of},
};
use super::{Ledger, LedgerError, LedgerSnapshot, RateState, RateWindow, Reserved};
use crate::domain::{
    quota::{Amounts, AppliedProfile, Bucket, Charge},
    rate::{Counted, WINDOW_MS},
};

/// A server that takes longer is as good as gone: requests wait for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What the scripts call a ledger without its mark.
const LOST_CODE: &str = "LOST";

/// Where Redis is: a `redis://` or `unix://` URL, which may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

/// The text names no Redis that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no `redis://host:port/number` and no `unix:///path` URL")]
pub struct InvalidRedisUrl;

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        Client::open(text).map_err(|_| InvalidRedisUrl)?;
        Ok(Self(text.to_owned()))
    }
}

/// Without a password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("redis", &self.0));
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        // Parameters may hold a password too.
        write!(f, "{scheme}://{}", place.split(['?', '#']).next().unwrap_or_default())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// Counters in Redis.
pub struct RedisLedger {
    connection: ConnectionManager,
    scripts: Scripts,
    /// Keys of the mark, the charges and the counters.
    quota_keys: [String; 3],
    alive_key: String,
    rate_prefix: String,
}

impl RedisLedger {
    /// A ledger whose keys begin with `prefix`. The server is dialled when it is first needed, and
    /// again whenever the connection breaks.
    pub fn new(url: &RedisUrl, prefix: &str) -> Result<Self, LedgerError> {
        let action = "opening a connection";
        let failed = |error: RedisError| unavailable(action, error);
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(ANSWER_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT));
        let client = Client::open(url.0.as_str()).map_err(failed)?;
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(failed)?;
        // In a cluster the braces would keep all of it on one node.
        let key = |name: &str| format!("{{{prefix}}}:{name}");
        Ok(Self {
            connection,
            scripts: Scripts::new(),
            quota_keys: [key("filled"), key("charges"), key("counters")],
            alive_key: key("alive"),
            rate_prefix: key("rate"),
        })
    }

    fn on_quotas<'a>(&'a self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        for key in &self.quota_keys {
            call.key(key);
        }
        call
    }

    async fn run<T: FromRedisValue>(
        &self,
        call: ScriptInvocation<'_>,
        action: &'static str,
    ) -> Result<T, LedgerError> {
        let mut connection = self.connection.clone();
        // The manager bounds each command and each dialling, not both together.
        let answer =
            tokio::time::timeout(2 * ANSWER_LIMIT, call.invoke_async(&mut connection)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.code() == Some(LOST_CODE) => Err(LedgerError::Lost),
            Ok(Err(error)) => Err(unavailable(action, error)),
            Err(late) => Err(unavailable(action, late)),
        }
    }
}

fn unavailable(
    action: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> LedgerError {
    LedgerError::Unavailable { action, source: Box::new(error) }
}

/// Adds what a profile holds its bucket to: the bucket and its six caps, -1 for none.
fn add_caps(call: &mut ScriptInvocation<'_>, profiles: &[AppliedProfile]) {
    for profile in profiles {
        call.arg(profile.bucket.to_string());
        for cap in text::caps_of(profile) {
            call.arg(cap);
        }
    }
}

#[async_trait]
impl Ledger for RedisLedger {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn reserve(
        &self,
        bunker: BunkerId,
        charge: &Charge,
        profiles: &[AppliedProfile],
    ) -> Result<Reserved, LedgerError> {
        let mut call = self.on_quotas(&self.scripts.reserve);
        call.arg(bunker.to_string()).arg(text_of(charge));
        add_caps(&mut call, profiles);
        let refusal: Vec<u64> = self.run(call, "a reservation").await?;
        exceeded_of(&refusal, profiles)
    }

    async fn release(&self, bunker: BunkerId) -> Result<bool, LedgerError> {
        let mut call = self.on_quotas(&self.scripts.release);
        call.arg(bunker.to_string());
        self.run(call, "giving back").await
    }

    async fn pause(&self, bunker: BunkerId) -> Result<bool, LedgerError> {
        let mut call = self.on_quotas(&self.scripts.pause);
        call.arg(bunker.to_string());
        self.run(call, "giving CPU back").await
    }

    async fn resume(
        &self,
        bunker: BunkerId,
        profiles: &[AppliedProfile],
    ) -> Result<Reserved, LedgerError> {
        let mut call = self.on_quotas(&self.scripts.resume);
        call.arg(bunker.to_string());
        add_caps(&mut call, profiles);
        let refusal: Vec<u64> = self.run(call, "taking CPU").await?;
        exceeded_of(&refusal, profiles)
    }

    async fn usage(&self, buckets: &[Bucket]) -> Result<Vec<Amounts>, LedgerError> {
        let mut call = self.on_quotas(&self.scripts.usage);
        for bucket in buckets {
            call.arg(bucket.to_string());
        }
        let sums: Vec<u64> = self.run(call, "reading counters").await?;
        let (amounts, []) = sums.as_chunks() else {
            return Err(LedgerError::Corrupt { what: "counters" });
        };
        Ok(amounts.iter().copied().map(Amounts::from).collect())
    }

    async fn snapshot(&self) -> Result<LedgerSnapshot, LedgerError> {
        let call = self.on_quotas(&self.scripts.snapshot);
        let (charges, counters): (HashMap<String, String>, HashMap<String, u64>) =
            self.run(call, "reading everything").await?;
        snapshot_of(&charges, &counters)
    }

    async fn correct(&self, bunker: BunkerId, charge: Option<&Charge>) -> Result<(), LedgerError> {
        let mut call = self.on_quotas(&self.scripts.correct);
        call.arg(bunker.to_string()).arg(charge.map(text_of).unwrap_or_default());
        self.run(call, "correcting a charge").await
    }

    async fn recount(&self) -> Result<(), LedgerError> {
        self.run(self.on_quotas(&self.scripts.recount), "counting again").await
    }

    async fn rebuild(&self, charges: &HashMap<BunkerId, Charge>) -> Result<(), LedgerError> {
        let mut call = self.on_quotas(&self.scripts.rebuild);
        for (bunker, charge) in charges {
            call.arg(bunker.to_string()).arg(text_of(charge));
        }
        self.run::<bool>(call, "filling the ledger").await.map(drop)
    }

    async fn admit(
        &self,
        windows: &[RateWindow],
        now: Timestamp,
    ) -> Result<Vec<RateState>, LedgerError> {
        let now_ms = u64::try_from(now.as_millisecond()).unwrap_or_default();
        let (minute, elapsed_ms) = (now_ms / WINDOW_MS, now_ms % WINDOW_MS);
        let mut call = self.scripts.admit.prepare_invoke();
        for RateWindow { key, .. } in windows {
            for minute in [minute, minute.saturating_sub(1)] {
                call.key(format!("{}:{key}:{minute}", self.rate_prefix));
            }
        }
        call.arg(elapsed_ms);
        for window in windows {
            call.arg(window.limit);
        }
        let counts: Vec<u64> = self.run(call, "counting a request").await?;
        let Some((admitted, counts)) = counts.split_last() else {
            return Err(LedgerError::Corrupt { what: "rates" });
        };
        let (counts, _) = counts.as_chunks::<2>();
        let states = counts.iter().zip(windows).map(|(&[current, previous], window)| {
            let counted = Counted { previous, current, elapsed_ms };
            let wait = if *admitted == 1 { None } else { counted.wait(window.limit) };
            RateState::of(&counted, window, wait)
        });
        Ok(states.collect())
    }

    async fn note_alive(&self, worker: WorkerId, lifetime: Duration) -> Result<(), LedgerError> {
        let mut call = self.scripts.note_alive.key(&self.alive_key);
        call.arg(worker.to_string()).arg(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        self.run(call, "noting a heartbeat").await
    }

    async fn alive(&self) -> Result<Vec<WorkerId>, LedgerError> {
        let call = self.scripts.alive.key(&self.alive_key);
        let ids: Vec<String> = self.run(call, "reading who is alive").await?;
        // Whatever else is in there is no worker.
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    async fn ping(&self) -> Result<(), LedgerError> {
        // Through a script, as everything else: a server that runs none is of no use.
        self.alive().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_hide_their_password() {
        for (text, shown) in [
            ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("redis://me:se@cret@redis.example", "redis://redis.example"),
            ("unix:///run/redis.sock?pass=secret", "unix:///run/redis.sock"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("cret"));
        }
        assert!("http://a".parse::<RedisUrl>().is_err() && "".parse::<RedisUrl>().is_err());
    }
}

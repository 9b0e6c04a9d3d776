//! The issuer's keys. They change: a token by an unknown key is a reason to look again, but not
//! more often than every few seconds, whatever callers send.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use super::{
    fetch::{FetchError, Fetcher},
    signature::ALGORITHMS,
};
use crate::failure::chain;

/// Keys older than this are asked for again.
const REFRESH_AFTER: Duration = Duration::from_secs(10 * 60);

/// Between two times that the issuer is asked.
const PAUSE: Duration = Duration::from_secs(10);

/// More keys of one issuer are not looked at.
const MAX_KEYS: usize = 64;

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// The keys as they were last seen.
#[derive(Default, Clone)]
struct KeySet {
    keys: Arc<[Jwk]>,
    /// `None`: never.
    seen: Option<Instant>,
}

/// The keys of one issuer.
pub(super) struct Keys {
    fetcher: Fetcher,
    issuer: String,
    current: RwLock<KeySet>,
    /// When the issuer was asked last; held while it is.
    asked: Mutex<Option<Instant>>,
}

impl Keys {
    pub(super) fn new(fetcher: Fetcher, issuer: String) -> Self {
        let (current, asked) = (RwLock::default(), Mutex::default());
        Self { fetcher, issuer, current, asked }
    }

    /// The key that a token names. Fails only when no keys were ever seen.
    pub(super) async fn find(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<DecodingKey>, FetchError> {
        let known = self.current();
        if let Some(key) = known.find(kid, algorithm) {
            if known.seen.is_some_and(|seen| seen.elapsed() >= REFRESH_AFTER) {
                let keys = Arc::clone(self);
                // Nobody waits for it: the key is good until the issuer says otherwise.
                tokio::spawn(async move { keys.refresh(Some(&known)).await });
            }
            return Ok(Some(key));
        }
        self.refresh(Some(&known)).await?;
        Ok(self.current().find(kid, algorithm))
    }

    fn current(&self) -> KeySet {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the issuer, unless somebody did since `known` was looked at or just now. While it is
    /// down, what it said before goes on to hold.
    async fn refresh(&self, known: Option<&KeySet>) -> Result<(), FetchError> {
        let mut asked = self.asked.lock().await;
        let seen = self.current().seen;
        let is_newer = known.is_some_and(|known| known.seen != seen);
        let is_early = asked.is_some_and(|asked| asked.elapsed() < PAUSE);
        if is_newer || (is_early && seen.is_some()) {
            return Ok(());
        }
        let fetched = self.fetch().await;
        *asked = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                let set = KeySet { keys, seen: *asked };
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = set;
                Ok(())
            }
            Err(error) if seen.is_some() => {
                tracing::warn!(
                    error = chain(&error),
                    "the keys of the token issuer stay as they were"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self) -> Result<Arc<[Jwk]>, FetchError> {
        let base = self.issuer.trim_end_matches('/');
        let discovery = format!("{base}/.well-known/openid-configuration");
        let discovery: Discovery = self.fetcher.get(&discovery).await?;
        if discovery.issuer != self.issuer {
            let wanted = self.issuer.clone();
            return Err(FetchError::OtherIssuer { found: discovery.issuer, wanted });
        }
        let set: JwkSet = self.fetcher.get(&discovery.jwks_uri).await?;
        // A key of a kind that is not known is no reason to distrust the others.
        let readable = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Jwk> = readable.take(MAX_KEYS).collect();
        tracing::debug!(keys = keys.len(), "the token issuer's keys were read");
        Ok(keys.into())
    }
}

impl KeySet {
    /// The key called `kid`; without a name, the only one that can sign so.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let mut fitting = self.keys.iter().filter(|key| fits(key, algorithm));
        let key = match kid {
            Some(kid) => fitting.find(|key| key.common.key_id.as_deref() == Some(kid))?,
            None => {
                let only = fitting.next()?;
                if fitting.next().is_some() {
                    return None;
                }
                only
            }
        };
        DecodingKey::from_jwk(key).ok()
    }
}

/// Whether the key is meant for signatures of this kind.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let is_of_kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), RS256 | RS384 | RS512 | PS256 | PS384 | PS512) => true,
        (AlgorithmParameters::EllipticCurve(curve), ES256) => curve.curve == EllipticCurve::P256,
        (AlgorithmParameters::EllipticCurve(curve), ES384) => curve.curve == EllipticCurve::P384,
        (AlgorithmParameters::OctetKeyPair(curve), EdDSA) => curve.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let is_for_this =
        key.common.key_algorithm.as_ref().is_none_or(|declared| {
            ALGORITHMS.contains(&algorithm) && is_named(declared, algorithm)
        });
    let is_for_signing =
        key.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    is_of_kind && is_for_this && is_for_signing
}

fn is_named(declared: &KeyAlgorithm, algorithm: Algorithm) -> bool {
    declared.to_string() == format!("{algorithm:?}")
}

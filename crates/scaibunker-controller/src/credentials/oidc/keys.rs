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

use super::fetch::{FetchError, Fetcher};
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
                tokio::spawn(async move { keys.refresh(known.seen).await });
            }
            return Ok(Some(key));
        }
        self.refresh(known.seen).await?;
        Ok(self.current().find(kid, algorithm))
    }

    fn current(&self) -> KeySet {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the issuer, unless somebody did so since the keys of `known` were seen, or just now.
    /// While it is down, what it said before goes on to hold.
    async fn refresh(&self, known: Option<Instant>) -> Result<(), FetchError> {
        let mut asked = self.asked.lock().await;
        let seen = self.current().seen;
        let is_newer = known != seen;
        let is_early = asked.is_some_and(|asked| asked.elapsed() < PAUSE);
        if is_newer || is_early {
            return if seen.is_some() { Ok(()) } else { Err(FetchError::JustFailed) };
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
    let declared = key.common.key_algorithm.as_ref();
    let is_for_this = declared.is_none_or(|declared| is_named(declared, algorithm));
    let is_for_signing =
        key.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    is_of_kind && is_for_this && is_for_signing
}

fn is_named(declared: &KeyAlgorithm, algorithm: Algorithm) -> bool {
    declared.to_string() == format!("{algorithm:?}")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::{Router, response::Redirect, routing::get};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    const DISCOVERY: &str = "/.well-known/openid-configuration";

    /// An issuer that may misbehave, until it is dropped.
    struct FakeIssuer {
        url: String,
        asked: Arc<AtomicU32>,
        serving: tokio::task::JoinHandle<()>,
    }

    impl Drop for FakeIssuer {
        fn drop(&mut self) {
            self.serving.abort();
        }
    }

    impl FakeIssuer {
        /// Answers with these keys, and with what `discovery` makes of its URL.
        async fn start(keys: Value, discovery: impl Fn(&str) -> Value) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let (asked, document) = (Arc::new(AtomicU32::new(0)), discovery(&url).to_string());
            let counter = Arc::clone(&asked);
            let count = move || {
                counter.fetch_add(1, Ordering::Relaxed);
                async move { document }
            };
            let router = Router::new()
                .route(DISCOVERY, get(count))
                .route("/keys", get(|| async move { keys.to_string() }))
                .route("/moved", get(|| async { Redirect::temporary("/keys") }))
                .route("/endless", get(|| async { " ".repeat(300 * 1024) }));
            let serving = tokio::spawn(async move {
                axum::serve(listener, router).await.unwrap();
            });
            Self { url, asked, serving }
        }

        fn keys(&self) -> Arc<Keys> {
            Arc::new(Keys::new(Fetcher::new(None).unwrap(), self.url.clone()))
        }
    }

    fn rsa(kid: &str) -> Value {
        json!({ "kty": "RSA", "kid": kid, "n": "AQAB", "e": "AQAB" })
    }

    fn at(path: &'static str) -> impl Fn(&str) -> Value {
        move |url| json!({ "issuer": url, "jwks_uri": format!("{url}{path}") })
    }

    #[tokio::test]
    async fn unknown_keys_do_not_make_the_issuer_busy() {
        let issuer = FakeIssuer::start(json!({ "keys": [rsa("a")] }), at("/keys")).await;
        let keys = issuer.keys();
        for kid in ["a", "b", "c", "a", "d"] {
            let found = keys.find(Some(kid), Algorithm::RS256).await.unwrap();
            assert_eq!(found.is_some(), kid == "a", "{kid}");
        }
        assert_eq!(issuer.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_key_is_used_for_what_it_is_made_for() {
        let other = json!({ "kty": "new", "kid": "x" });
        let curve = json!({ "kty": "EC", "crv": "P-256", "kid": "c", "x": "AA", "y": "AA" });
        let (mut declared, mut encrypting) = (rsa("d"), rsa("e"));
        declared["alg"] = json!("PS256");
        encrypting["use"] = json!("enc");
        let set = json!({ "keys": [other, rsa("a"), curve, declared, encrypting, 7] });
        let issuer = FakeIssuer::start(set, at("/keys")).await;
        let keys = issuer.keys();
        for (kid, algorithm, fits) in [
            (Some("a"), Algorithm::RS256, true),
            (Some("a"), Algorithm::PS512, true),
            (Some("a"), Algorithm::ES256, false),
            (Some("c"), Algorithm::ES256, true),
            (Some("c"), Algorithm::ES384, false),
            (Some("c"), Algorithm::RS256, false),
            (Some("d"), Algorithm::PS256, true),
            (Some("d"), Algorithm::RS256, false),
            (Some("e"), Algorithm::RS256, false),
            (Some("x"), Algorithm::RS256, false),
            (None, Algorithm::ES256, true),
            (None, Algorithm::PS256, false),
        ] {
            let found = keys.find(kid, algorithm).await.unwrap();
            assert_eq!(found.is_some(), fits, "{kid:?} {algorithm:?}");
        }
    }

    #[tokio::test]
    async fn an_issuer_that_misbehaves_is_not_believed() {
        let set = json!({ "keys": [rsa("a")] });
        let elsewhere = |_: &str| json!({ "issuer": "https://evil.example", "jwks_uri": "x" });
        let away = |url: &str| json!({ "issuer": url, "jwks_uri": "http://169.254.169.254/" });
        for (issuer, is_right) in [
            (FakeIssuer::start(set.clone(), elsewhere).await, "the document is of"),
            (FakeIssuer::start(set.clone(), away).await, "is not to be asked"),
            (FakeIssuer::start(set.clone(), at("/moved")).await, "answered 307"),
            (FakeIssuer::start(set.clone(), at("/endless")).await, "longer than"),
            (FakeIssuer::start(set.clone(), at("/nothing")).await, "answered 404"),
            (FakeIssuer::start(json!([]), at("/keys")).await, "not what it should be"),
        ] {
            let keys = issuer.keys();
            let error = keys.find(Some("a"), Algorithm::RS256).await.unwrap_err();
            assert!(error.to_string().contains(is_right), "{error}");
            let again = keys.find(Some("a"), Algorithm::RS256).await.unwrap_err();
            assert!(matches!(again, FetchError::JustFailed), "{again}");
        }
    }
}

//! Capability tokens: who holds one may use some methods on the objects below a prefix, until it
//! expires.
//!
//! A token is a PASETO (`v4.local.…`): sealed, so it says nothing to whoever holds it, and made and
//! opened with a key that only the controller and its storage proxies have.

use axum::http::Method;
use jiff::Timestamp;
use pasetors::{
    Local, keys::SymmetricKey, token::UntrustedToken, version4::LocalToken, version4::V4,
};
use scaibunker_api::storage::{Capability, CapabilityMethod};
use serde::{Deserialize, Serialize};

use crate::{SigningSecret, key};

/// What a PASETO of this version and purpose begins with.
const HEADER: &str = "v4.local.";

/// The longest that a token may be valid: a week.
const MAX_TTL_S: u64 = 7 * 24 * 60 * 60;

/// What a token holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    prefix: String,
    methods: Vec<CapabilityMethod>,
    /// Unix seconds.
    expires: i64,
}

/// No token can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    #[error(
        "a capability's prefix is the beginning of keys in whole segments, such as \
         `images/uploads/`: it starts with images, snapshots, output, files or audit, and has plain \
         segments without `..`"
    )]
    Prefix,
    #[error("a capability has at least one of the methods GET, HEAD and PUT, each once")]
    Methods,
    #[error("a capability is valid for 1 to 604,800 seconds (a week)")]
    Ttl,
    #[error("this server has no SCAIBUNKER_CAPABILITY_SECRET to seal capability tokens with")]
    NoSecret,
    #[error("a capability token cannot be sealed")]
    Seal,
}

/// A token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "it was sealed with another secret, or changed: scaibunker_capability_secret must be set on \
         the proxy as well as the controller, to the same string"
    )]
    OtherSecret,
    #[error("the token expired at {0}: mint a new one")]
    Expired(Timestamp),
    #[error("the token is not for {method}, only for {allowed}")]
    Method { method: String, allowed: String },
    #[error("the token is only for keys below `{0}/`")]
    Prefix(String),
}

/// Whether a credential is a capability token, valid or not.
#[must_use]
pub fn is_capability(credential: &str) -> bool {
    credential.starts_with(HEADER)
}

impl MintError {
    /// The field of the request that is wrong, if it is the request.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Prefix => Some("prefix"),
            Self::Methods => Some("methods"),
            Self::Ttl => Some("ttl_s"),
            Self::NoSecret | Self::Seal => None,
        }
    }
}

impl SigningSecret {
    /// A token for `methods` on the keys below `prefix` (whole segments; a key that is the prefix
    /// itself counts) from `now` on for `ttl_s` seconds. GET includes HEAD.
    pub(crate) fn mint(
        &self,
        prefix: &str,
        methods: &[CapabilityMethod],
        ttl_s: u64,
        now: Timestamp,
    ) -> Result<Capability, MintError> {
        let segments = key::prefix(prefix).ok_or(MintError::Prefix)?;
        let is_double = |(n, method)| methods[..n].contains(method);
        if methods.is_empty() || methods.iter().enumerate().any(is_double) {
            return Err(MintError::Methods);
        }
        if !(1..=MAX_TTL_S).contains(&ttl_s) {
            return Err(MintError::Ttl);
        }
        let ttl_s = i64::try_from(ttl_s).map_err(|_| MintError::Ttl)?;
        let expires = now.as_second().checked_add(ttl_s).ok_or(MintError::Ttl)?;
        let expires_at = Timestamp::from_second(expires).map_err(|_| MintError::Ttl)?;
        let methods = methods.to_vec();
        let claims = Claims { prefix: segments.to_owned(), methods: methods.clone(), expires };
        let payload = serde_json::to_vec(&claims).map_err(|_| MintError::Seal)?;
        let key = self.current.capabilities.as_ref().ok_or(MintError::Seal)?;
        let token = LocalToken::encrypt(key, &payload, None, None).map_err(|_| MintError::Seal)?;
        Ok(Capability { token, prefix: prefix.to_owned(), methods, expires_at })
    }

    /// Judges the use of a capability token for `method` on `key`.
    pub(crate) fn check_capability(
        &self,
        token: &str,
        method: &Method,
        key: &str,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let claims = self.open(token).ok_or(Refused::OtherSecret)?;
        if now.as_second() >= claims.expires {
            let expired_at = Timestamp::from_second(claims.expires).unwrap_or(now);
            return Err(Refused::Expired(expired_at));
        }
        if !claims.methods.iter().any(|allowed| allows(*allowed, method)) {
            let allowed: Vec<_> = claims.methods.iter().map(|method| name(*method)).collect();
            let allowed = allowed.join(" and ");
            return Err(Refused::Method { method: method.to_string(), allowed });
        }
        let below = key.strip_prefix(&claims.prefix);
        if !below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Err(Refused::Prefix(claims.prefix));
        }
        Ok(())
    }

    fn open(&self, token: &str) -> Option<Claims> {
        let token = UntrustedToken::<Local, V4>::try_from(token).ok()?;
        let open = |key: &SymmetricKey<V4>| LocalToken::decrypt(key, &token, None, None).ok();
        let mut keys = self.accepted().filter_map(|keys| keys.capabilities.as_ref());
        let opened = keys.find_map(open)?;
        serde_json::from_str(opened.payload()).ok()
    }
}

fn allows(allowed: CapabilityMethod, method: &Method) -> bool {
    match allowed {
        CapabilityMethod::Get => [Method::GET, Method::HEAD].contains(method),
        CapabilityMethod::Head => *method == Method::HEAD,
        CapabilityMethod::Put => *method == Method::PUT,
    }
}

fn name(method: CapabilityMethod) -> &'static str {
    match method {
        CapabilityMethod::Get => "GET",
        CapabilityMethod::Head => "HEAD",
        CapabilityMethod::Put => "PUT",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use CapabilityMethod::{Get, Head, Put};

    const DAY_S: u64 = 24 * 60 * 60;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mint(
        prefix: &str,
        methods: &[CapabilityMethod],
        ttl_s: u64,
    ) -> Result<Capability, MintError> {
        SigningSecret::new("secret").mint(prefix, methods, ttl_s, at(0))
    }

    #[test]
    fn a_token_opens_whole_segments_below_its_prefix() {
        let secret = SigningSecret::new("secret");
        for prefix in ["images/a", "images/a/"] {
            let token = mint(prefix, &[Put], DAY_S).unwrap().token;
            let check = |key| secret.check_capability(&token, &Method::PUT, key, at(1));
            for key in ["images/a", "images/a/b", "images/a/b/c"] {
                assert_eq!(check(key), Ok(()), "{key}");
            }
            for key in ["images/ab", "images", "images/", "images/b", "files/images/a", ""] {
                assert_eq!(check(key), Err(Refused::Prefix("images/a".into())), "{key}");
            }
        }
    }

    #[test]
    fn a_token_is_for_its_methods_and_get_includes_head() {
        let secret = SigningSecret::new("secret");
        for (methods, opens) in [
            (vec![Get], vec![Method::GET, Method::HEAD]),
            (vec![Head], vec![Method::HEAD]),
            (vec![Put], vec![Method::PUT]),
            (vec![Put, Get], vec![Method::GET, Method::HEAD, Method::PUT]),
        ] {
            let token = mint("images", &methods, DAY_S).unwrap().token;
            for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::POST] {
                let checked = secret.check_capability(&token, &method, "images/a", at(1));
                assert_eq!(checked.is_ok(), opens.contains(&method), "{methods:?} {method}");
            }
        }
    }

    #[test]
    fn a_token_ends_when_it_expires() {
        let secret = SigningSecret::new("secret");
        let minted = mint("images", &[Get], 10).unwrap();
        assert_eq!(minted.expires_at, at(10));
        let check = |now| secret.check_capability(&minted.token, &Method::GET, "images/a", at(now));
        assert_eq!(check(9), Ok(()));
        assert_eq!(check(10), Err(Refused::Expired(at(10))));
    }

    #[test]
    fn the_secret_before_still_opens_what_it_has_sealed_and_seals_nothing() {
        let old = SigningSecret::new("old");
        let new = SigningSecret::new("new");
        let both = SigningSecret::new("new").accepting("old");
        let token =
            |secret: &SigningSecret| secret.mint("images", &[Get], DAY_S, at(0)).unwrap().token;
        let opens = |secret: &SigningSecret, token: &str| {
            secret.check_capability(token, &Method::GET, "images/a", at(1)).is_ok()
        };
        assert!(opens(&both, &token(&old)) && opens(&both, &token(&new)));
        assert!(opens(&new, &token(&both)) && !opens(&old, &token(&both)));
        assert!(!opens(&new, &token(&old)));
    }

    #[test]
    fn what_cannot_be_minted_names_the_field() {
        for prefix in ["", "/", "other", "images//", "images/../files", "/images", "images/%2e"] {
            let refused = mint(prefix, &[Get], DAY_S).unwrap_err();
            assert_eq!(refused.field(), Some("prefix"), "{prefix}");
        }
        for methods in [vec![], vec![Get, Get]] {
            assert_eq!(mint("images", &methods, 1).unwrap_err().field(), Some("methods"));
        }
        for ttl_s in [0, 7 * DAY_S + 1, u64::MAX] {
            assert_eq!(mint("images", &[Get], ttl_s).unwrap_err().field(), Some("ttl_s"));
        }
        assert!(mint("images", &[Get], 7 * DAY_S).is_ok());
    }

    #[test]
    fn any_changed_character_is_refused() {
        let secret = SigningSecret::new("secret");
        let token = mint("images", &[Get], DAY_S).unwrap().token;
        bolero::check!()
            .with_test_time(Duration::from_secs(2))
            .with_type::<(usize, char)>()
            .for_each(|&(place, character)| {
                let mut changed: Vec<char> = token.chars().collect();
                let place = place % changed.len();
                changed[place] = character;
                let changed: String = changed.into_iter().collect();
                if changed != token {
                    let checked =
                        secret.check_capability(&changed, &Method::GET, "images/a", at(1));
                    assert_eq!(checked, Err(Refused::OtherSecret), "{changed}");
                }
            });
    }

    #[test]
    fn no_token_is_too_odd_to_be_judged() {
        let secret = SigningSecret::new("secret");
        bolero::check!().with_test_time(Duration::from_secs(2)).with_type::<String>().for_each(
            |text: &String| {
                for token in
                    [text.clone(), format!("{HEADER}{text}"), format!("{HEADER}AAAA.{text}")]
                {
                    let checked = secret.check_capability(&token, &Method::GET, "images/a", at(1));
                    assert_eq!(checked, Err(Refused::OtherSecret));
                }
            },
        );
    }
}

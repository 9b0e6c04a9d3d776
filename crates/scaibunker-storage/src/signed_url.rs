//! The proxy's own signed URLs: who holds one may do the one thing it was signed for.
//!
//! `…/storage/{key}?method=PUT&expires={unix seconds}&max_bytes={n}&signature={hex}`. The
//! signature covers the parameters as they are written, so each has exactly one spelling.

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use crate::{SigningSecret, access::Access};

/// Keeps these signatures apart from whatever else the same secret may sign one day.
const DOMAIN: &[u8] = b"scaibunker storage url v1";

/// What a signed URL allows: `method` on `key` until `expires`, with at most `max_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant<'a> {
    method: &'a str,
    key: &'a str,
    expires: &'a str,
    max_bytes: Option<&'a str>,
}

/// A signed URL is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the signature does not match: use the signed URL exactly as it was given out")]
    Mismatch,
    #[error("the signed URL has expired: ask for a new one")]
    Expired,
    #[error("the signed URL is for another method than {0}: send the method it was given out for")]
    Method(String),
}

impl SigningSecret {
    /// The query of a URL that allows `method` on `key` before `expires` (unix seconds).
    pub(crate) fn sign(
        &self,
        method: &str,
        key: &str,
        expires: i64,
        max_bytes: Option<u64>,
    ) -> String {
        let expires = expires.to_string();
        let max_bytes = max_bytes.map(|bytes| bytes.to_string());
        let grant = Grant { method, key, expires: &expires, max_bytes: max_bytes.as_deref() };
        let signature = mac(&self.current.urls, &grant).finalize().into_bytes();
        let mut query = format!("method={method}&expires={expires}");
        if let Some(max_bytes) = &max_bytes {
            query += "&max_bytes=";
            query += max_bytes;
        }
        query += "&signature=";
        for byte in signature {
            // Writing to a string cannot fail.
            let _ = write!(query, "{byte:02x}");
        }
        query
    }

    /// Judges a request by the query of its URL.
    pub(crate) fn check(
        &self,
        method: &str,
        key: &str,
        query: &str,
        now: Timestamp,
    ) -> Result<Access, Refused> {
        let (grant, signature) = parse(key, query).ok_or(Refused::Mismatch)?;
        let is_signed_with = |urls| mac(urls, &grant).verify_slice(&signature).is_ok();
        if !self.accepted().any(|keys| is_signed_with(&keys.urls)) {
            return Err(Refused::Mismatch);
        }
        let expires: i64 = grant.expires.parse().map_err(|_| Refused::Mismatch)?;
        if now.as_second() >= expires {
            return Err(Refused::Expired);
        }
        if grant.method != method {
            return Err(Refused::Method(method.to_owned()));
        }
        let max_bytes = grant.max_bytes.map(str::parse).transpose();
        Ok(Access { max_bytes: max_bytes.map_err(|_| Refused::Mismatch)? })
    }
}

/// Each field comes with its length, so no two grants have the same encoding.
fn mac(key: &Hmac<Sha256>, grant: &Grant<'_>) -> Hmac<Sha256> {
    let mut mac = key.clone();
    let max_bytes = grant.max_bytes.unwrap_or("none");
    for field in [
        DOMAIN,
        grant.method.as_bytes(),
        grant.key.as_bytes(),
        grant.expires.as_bytes(),
        max_bytes.as_bytes(),
    ] {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field);
    }
    mac
}

/// Whether a request wants to be judged by a signature.
pub(crate) fn is_signed(query: &str) -> bool {
    query.split('&').any(|pair| pair == "signature" || pair.starts_with("signature="))
}

/// Each parameter once, as it is written; nothing else.
fn parse<'a>(key: &'a str, query: &'a str) -> Option<(Grant<'a>, [u8; 32])> {
    let [mut method, mut expires, mut max_bytes, mut signature] = [None; 4];
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=')?;
        let parameter = match name {
            "method" => &mut method,
            "expires" => &mut expires,
            "max_bytes" => &mut max_bytes,
            "signature" => &mut signature,
            _ => return None,
        };
        if parameter.replace(value).is_some() {
            return None;
        }
    }
    // "none" would sign as a missing bound does.
    if max_bytes.is_some_and(|bytes| bytes.parse::<u64>().is_err()) {
        return None;
    }
    let grant = Grant { method: method?, key, expires: expires?, max_bytes };
    Some((grant, from_hex(signature?)?))
}

/// Lower case alone: each signature has one spelling.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: &str = "files/bnk_1/0193";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_signed_url_allows_what_it_was_signed_for_until_it_expires() {
        let secret = SigningSecret::new("secret");
        assert_eq!(format!("{secret:?}"), "SigningSecret");
        for max_bytes in [None, Some(0), Some(u64::MAX)] {
            let query = secret.sign("PUT", KEY, 1000, max_bytes);
            assert!(is_signed(&query));
            let check = |method, key, now| secret.check(method, key, &query, at(now));
            assert_eq!(check("PUT", KEY, 999), Ok(Access { max_bytes }));
            assert_eq!(check("PUT", KEY, 1000), Err(Refused::Expired));
            assert_eq!(check("GET", KEY, 999), Err(Refused::Method("GET".into())));
            assert_eq!(check("PUT", "files/bnk_1/0194", 999), Err(Refused::Mismatch));
            let other = SigningSecret::new("other");
            assert_eq!(other.check("PUT", KEY, &query, at(999)), Err(Refused::Mismatch));
            let rotated = other.accepting("secret");
            assert_eq!(rotated.check("PUT", KEY, &query, at(999)), Ok(Access { max_bytes }));
            let query = rotated.sign("PUT", KEY, 1000, max_bytes);
            assert_eq!(secret.check("PUT", KEY, &query, at(999)), Err(Refused::Mismatch));
        }
    }

    #[test]
    fn parameters_cannot_be_dropped_added_doubled_or_spelt_differently() {
        let secret = SigningSecret::new("secret");
        let query = secret.sign("PUT", KEY, 1000, Some(10));
        let unbounded = secret.sign("PUT", KEY, 1000, None);
        let refused = |query: String| {
            assert_eq!(secret.check("PUT", KEY, &query, at(1)), Err(Refused::Mismatch), "{query}");
        };
        refused(query.replace("&max_bytes=10", ""));
        refused(query.replace("max_bytes=10", "max_bytes=010"));
        refused(query.replace("max_bytes=10", "max_bytes=%310"));
        refused(unbounded.replace("&signature", "&max_bytes=none&signature"));
        refused(query.replace("PUT", "put"));
        refused(query.replace("expires=1000", "expires=+1000"));
        refused(format!("{query}&max_bytes=99"));
        refused(format!("max_bytes=99&{query}"));
        refused(format!("{query}&x=1"));
        refused(format!("{query}&"));
        refused(query.to_uppercase());
        // The order of the parameters says nothing.
        let (rest, signature) = query.rsplit_once('&').unwrap();
        assert!(secret.check("PUT", KEY, &format!("{signature}&{rest}"), at(1)).is_ok());
    }

    #[test]
    fn any_changed_character_is_refused() {
        let secret = SigningSecret::new("secret");
        let original = secret.sign("PUT", KEY, 1000, Some(10));
        bolero::check!()
            .with_test_time(Duration::from_secs(2))
            .with_type::<(usize, char)>()
            .for_each(|&(place, character)| {
                let mut changed: Vec<char> = original.chars().collect();
                let place = place % changed.len();
                changed[place] = character;
                let changed: String = changed.into_iter().collect();
                if changed != original {
                    let refused = secret.check("PUT", KEY, &changed, at(1));
                    assert_eq!(refused, Err(Refused::Mismatch), "{changed}");
                }
            });
    }

    #[test]
    fn no_query_is_too_odd_to_be_judged() {
        let secret = SigningSecret::new("secret");
        bolero::check!()
            .with_test_time(Duration::from_secs(2))
            .with_type::<(String, String)>()
            .for_each(|(key, query)| {
                assert_eq!(secret.check("PUT", key, query, at(1)), Err(Refused::Mismatch));
                let query = format!("method=PUT&expires={query}&signature={}", "0".repeat(64));
                assert_eq!(secret.check("PUT", key, &query, at(1)), Err(Refused::Mismatch));
            });
    }
}

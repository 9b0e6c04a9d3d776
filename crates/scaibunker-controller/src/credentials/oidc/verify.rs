//! One token against one key.

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header, errors::ErrorKind,
};
use serde::Deserialize;

use super::signature::ALGORITHMS;

/// How much clocks may differ.
const LEEWAY_S: u64 = 60;

const MAX_SUBJECT_BYTES: usize = 512;

/// A token is not accepted. The texts are told to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidToken {
    #[error("this is neither an API key (`sgk_…`) nor a JSON Web Token")]
    NoToken,
    #[error("the token is signed in a way that is not accepted; RS256, PS256, ES256 and EdDSA are")]
    Algorithm,
    #[error(
        "the token says that it can only be understood with an extension that is not known here"
    )]
    Critical,
    #[error("the token's key is not one of the issuer's; get a new token")]
    UnknownKey,
    #[error("the token's signature is not the issuer's")]
    Signature,
    #[error("the token is of another issuer than the configured one")]
    Issuer,
    #[error("the token was made for another service: `aud` must be the configured audience")]
    Audience,
    #[error("this token has expired; get a new one from the issuer")]
    Expired,
    #[error("the token is not valid yet; compare the clocks")]
    Early,
    #[error(
        "the token lacks `sub`, `exp`, `iss` or `aud`, or has one that is not what it should be"
    )]
    Claims,
}

/// What a token says of its user.
#[derive(Debug, Clone, Deserialize)]
pub struct Claims {
    pub sub: String,
    /// In seconds since the epoch.
    exp: f64,
    /// Read so that one of another type is refused, not passed over.
    #[serde(rename = "nbf")]
    _nbf: Option<f64>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub preferred_username: Option<String>,
    #[serde(default)]
    pub email: Option<String>,
}

impl Claims {
    /// When the token stops being accepted.
    pub(in crate::credentials) fn expires_at(&self) -> Timestamp {
        let expiry = SignedDuration::try_from_secs_f64(self.exp).unwrap_or_default();
        let leeway = SignedDuration::from_secs(LEEWAY_S as i64);
        expiry
            .checked_add(leeway)
            .and_then(|since_epoch| Timestamp::from_duration(since_epoch).ok())
            .unwrap_or(Timestamp::MAX)
    }
}

/// What every token must say.
#[derive(Debug)]
pub(super) struct Expected {
    pub issuer: String,
    pub audience: String,
}

/// The part of a token that tells how to verify it: nothing else of it is to be believed.
pub(super) fn header_of(token: &str) -> Result<Header, InvalidToken> {
    if token.bytes().filter(|byte| *byte == b'.').count() != 2 {
        return Err(InvalidToken::NoToken);
    }
    let header = decode_header(token).map_err(|error| match error.kind() {
        // The name of an algorithm that the library does not know.
        ErrorKind::Json(_) => InvalidToken::Algorithm,
        _ => InvalidToken::NoToken,
    })?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(InvalidToken::Algorithm);
    }
    if header.crit.is_some() {
        return Err(InvalidToken::Critical);
    }
    Ok(header)
}

impl Expected {
    /// What a token says, if it is signed with `key` and says what it must.
    pub(super) fn verify(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Result<Claims, InvalidToken> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims: Claims = decode(token, key, &validation).map_err(|e| reason(e.kind()))?.claims;
        if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT_BYTES {
            return Err(InvalidToken::Claims);
        }
        Ok(claims)
    }
}

fn reason(kind: &ErrorKind) -> InvalidToken {
    match kind {
        ErrorKind::ExpiredSignature => InvalidToken::Expired,
        ErrorKind::ImmatureSignature => InvalidToken::Early,
        ErrorKind::InvalidIssuer => InvalidToken::Issuer,
        ErrorKind::InvalidAudience => InvalidToken::Audience,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => InvalidToken::Algorithm,
        ErrorKind::InvalidSignature | ErrorKind::InvalidKeyFormat | ErrorKind::Base64(_) => {
            InvalidToken::Signature
        }
        ErrorKind::InvalidToken => InvalidToken::NoToken,
        _ => InvalidToken::Claims,
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use ring::{
        hmac,
        rand::SystemRandom,
        signature::{Ed25519KeyPair, KeyPair as _},
    };
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://issuer.example";
    const AUDIENCE: &str = "scaibunker";

    fn expected() -> Expected {
        super::super::signature::install();
        Expected { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned() }
    }

    fn key_pair() -> Ed25519KeyPair {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
    }

    fn public(pair: &Ed25519KeyPair) -> DecodingKey {
        DecodingKey::from_ed_der(pair.public_key().as_ref())
    }

    fn message(header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", encode(header), encode(claims))
    }

    fn signed(pair: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn claims() -> Value {
        let now = Timestamp::now().as_second();
        json!({ "sub": "u1", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 300, "nbf": now })
    }

    fn with(field: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[field] = value;
        claims
    }

    /// As the service does it.
    fn check(token: &str, key: &DecodingKey) -> Result<Claims, InvalidToken> {
        let header = header_of(token)?;
        expected().verify(token, header.alg, key)
    }

    #[test]
    fn a_good_token_is_accepted_and_expires_after_the_leeway() {
        let pair = key_pair();
        let token = signed(&pair, &json!({ "alg": "EdDSA", "typ": "at+jwt" }), &claims());
        let claims = check(&token, &public(&pair)).unwrap();
        assert_eq!(claims.sub, "u1");
        let left = claims.expires_at().duration_since(Timestamp::now()).as_secs();
        assert!((355..=360).contains(&left), "{left}");
        let many = signed(&pair, &json!({ "alg": "EdDSA" }), &with("aud", json!(["x", AUDIENCE])));
        assert!(check(&many, &public(&pair)).is_ok());
    }

    #[test]
    fn claims_that_are_not_as_they_must_be_are_told_apart() {
        let pair = key_pair();
        let now = Timestamp::now().as_second();
        for (claims, reason) in [
            (with("iss", json!("https://evil.example")), InvalidToken::Issuer),
            (with("iss", json!(format!("{ISSUER}/"))), InvalidToken::Issuer),
            (with("iss", Value::Null), InvalidToken::Claims),
            (with("aud", json!("other")), InvalidToken::Audience),
            (with("aud", json!([])), InvalidToken::Audience),
            (with("aud", Value::Null), InvalidToken::Claims),
            (with("exp", json!(now - 61)), InvalidToken::Expired),
            (with("exp", json!("soon")), InvalidToken::Claims),
            (with("exp", Value::Null), InvalidToken::Claims),
            (with("nbf", json!(now + 90)), InvalidToken::Early),
            (with("nbf", json!("never")), InvalidToken::Claims),
            (with("sub", json!("")), InvalidToken::Claims),
            (with("sub", json!("s".repeat(513))), InvalidToken::Claims),
            (with("sub", Value::Null), InvalidToken::Claims),
        ] {
            let token = signed(&pair, &json!({ "alg": "EdDSA" }), &claims);
            assert_eq!(check(&token, &public(&pair)).unwrap_err(), reason, "{claims}");
        }
        let skewed = with("exp", json!(now - 30));
        assert!(check(&signed(&pair, &json!({ "alg": "EdDSA" }), &skewed), &public(&pair)).is_ok());
    }

    #[test]
    fn who_has_no_key_signs_nothing() {
        let (pair, other) = (key_pair(), key_pair());
        let key = public(&pair);
        for alg in ["none", "None", "nOnE", "HS256", "HS512", "ES512", ""] {
            let unsigned = format!("{}.", message(&json!({ "alg": alg }), &claims()));
            assert!(check(&unsigned, &key).is_err(), "{alg}");
        }
        // The public key, taken for a shared secret.
        let message_hs = message(&json!({ "alg": "HS256", "typ": "JWT" }), &claims());
        let secret = hmac::Key::new(hmac::HMAC_SHA256, pair.public_key().as_ref());
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&secret, message_hs.as_bytes()));
        let confused = format!("{message_hs}.{tag}");
        assert_eq!(check(&confused, &key).unwrap_err(), InvalidToken::Algorithm);
        // A key of another kind than the algorithm's.
        let crossed = signed(&pair, &json!({ "alg": "ES256" }), &claims());
        assert!(check(&crossed, &key).is_err());
        // Somebody else's signature, with their key in the header.
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519",
            "x": URL_SAFE_NO_PAD.encode(other.public_key().as_ref()) });
        let forged = signed(&other, &json!({ "alg": "EdDSA", "jwk": jwk }), &claims());
        assert_eq!(check(&forged, &key).unwrap_err(), InvalidToken::Signature);
        let critical = signed(&pair, &json!({ "alg": "EdDSA", "crit": ["b64"] }), &claims());
        assert_eq!(check(&critical, &key).unwrap_err(), InvalidToken::Critical);
    }

    proptest! {
        #[test]
        fn no_change_of_a_token_goes_unseen(at in 0usize..1000, letter in "[A-Za-z0-9_.-]") {
            let pair = key_pair();
            let token = signed(&pair, &json!({ "alg": "EdDSA" }), &claims());
            let at = at % token.len();
            let changed = format!("{}{letter}{}", &token[..at], &token[at + 1..]);
            // The last letter of the signature holds bits that mean nothing.
            if changed != token && at + 1 < token.len() {
                prop_assert!(check(&changed, &public(&pair)).is_err());
            }
        }

        #[test]
        fn no_text_makes_it_panic(token in "[ -~]{0,80}|[a-z.]{0,20}") {
            let _ = check(&token, &public(&key_pair()));
        }
    }
}

//! The header under which a request may be repeated.

use axum::{extract::FromRequestParts, http::request::Parts};
use scaibunker_api::error::ErrorBody;

use super::fault::Fault;

const HEADER: &str = "idempotency-key";
const MAX_BYTES: usize = 255;

/// The request's `Idempotency-Key`.
pub(super) struct IdempotencyKey(pub Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let Some(value) = parts.headers.get(HEADER) else { return Ok(Self(None)) };
        match value.to_str() {
            Ok(key) if (1..=MAX_BYTES).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            _ => {
                let message = format!("must be 1 to {MAX_BYTES} printable ASCII characters");
                Err(ErrorBody::invalid("Idempotency-Key", message).into())
            }
        }
    }
}

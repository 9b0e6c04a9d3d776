//! Who may use the proxy: holders of the worker token, and of a signed URL for what it allows.

use axum::http::{HeaderMap, Method, header};
use jiff::Timestamp;
use scaibunker_api::error::{ErrorBody, ErrorCode};

use crate::{Objects, WorkerToken, signed_url};

/// What a request that was let in may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    /// Largest body it may store, in bytes.
    pub(crate) max_bytes: Option<u64>,
}

/// Judges a request. One with a signature is judged by the signature alone.
pub(crate) fn check(
    objects: &Objects,
    worker_token: &WorkerToken,
    method: &Method,
    key: &str,
    query: &str,
    headers: &HeaderMap,
) -> Result<Access, ErrorBody> {
    let checked = if signed_url::is_signed(query) {
        check_signature(objects, method, key, query)
    } else {
        check_worker_token(worker_token, headers).map_err(str::to_owned)
    };
    checked.map_err(|message| ErrorBody::new(ErrorCode::Unauthorized, message))
}

fn check_signature(
    objects: &Objects,
    method: &Method,
    key: &str,
    query: &str,
) -> Result<Access, String> {
    let secret = objects.signing_secret().ok_or(
        "the signature does not match: this server signs no URLs, its object store does; send \
         the request to the address the signed URL had",
    )?;
    let checked = secret.check(method.as_str(), key, query, Timestamp::now());
    checked.map_err(|refused| refused.to_string())
}

fn check_worker_token(
    worker_token: &WorkerToken,
    headers: &HeaderMap,
) -> Result<Access, &'static str> {
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match presented {
        None => Err(
            "no credential: send the worker token as `Authorization: Bearer …`, or use a signed \
             URL; capability tokens are not accepted by this server",
        ),
        Some(token) if worker_token.is(token) => Ok(Access { max_bytes: None }),
        Some(_) => {
            Err("the worker token does not match: SCAIBUNKER_WORKER_TOKEN must be the same on the \
             worker and the storage proxy; the capability token check did not apply: this server \
             accepts none")
        }
    }
}

//! Who may use the proxy: holders of the worker token, of a capability token for what it was minted
//! for, and of a signed URL for what it allows.

use axum::http::{HeaderMap, Method, header};
use jiff::Timestamp;
use scaibunker_api::error::{ErrorBody, ErrorCode};

use crate::{Objects, WorkerToken, capability, signed_url};

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
        check_bearer(objects, worker_token, method, key, headers)
    };
    checked.map_err(|message| ErrorBody::new(ErrorCode::Unauthorized, message))
}

fn check_signature(
    objects: &Objects,
    method: &Method,
    key: &str,
    query: &str,
) -> Result<Access, String> {
    if !objects.signs_own_urls() {
        return Err("the signature does not match: this server signs no URLs, its object store \
                    does; send the request to the address the signed URL had"
            .to_owned());
    }
    let secret = objects.secret().ok_or(
        "the signature does not match: scaibunker_capability_secret must be set on the proxy as \
         well as the controller, and this proxy has no SCAIBUNKER_CAPABILITY_SECRET",
    )?;
    let checked = secret.check(method.as_str(), key, query, Timestamp::now());
    checked.map_err(|refused| refused.to_string())
}

fn check_bearer(
    objects: &Objects,
    worker_token: &WorkerToken,
    method: &Method,
    key: &str,
    headers: &HeaderMap,
) -> Result<Access, String> {
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let unbounded = Access { max_bytes: None };
    let Some(presented) = presented else {
        return Err("no credential: send the worker token or a capability token as \
                    `Authorization: Bearer …`, or use a signed URL"
            .to_owned());
    };
    if worker_token.is(presented) {
        return Ok(unbounded);
    }
    if !capability::is_capability(presented) {
        return Err("the worker token does not match: SCAIBUNKER_WORKER_TOKEN must be the same \
                    string on the worker, the controller and the storage proxy; the capability \
                    token check did not apply: what was sent is no capability token"
            .to_owned());
    }
    let failed = |why: String| {
        format!(
            "the capability token check failed: {why}; the worker token check did not apply: what \
             was sent is a capability token"
        )
    };
    let secret = objects.secret().ok_or_else(|| {
        failed(
            "scaibunker_capability_secret must be set on the proxy as well as the controller, and \
             this proxy has no SCAIBUNKER_CAPABILITY_SECRET"
                .to_owned(),
        )
    })?;
    let checked = secret.check_capability(presented, method, key, Timestamp::now());
    checked.map(|()| unbounded).map_err(|refused| failed(refused.to_string()))
}

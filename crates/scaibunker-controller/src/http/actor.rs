//! Who calls: the holder of an API key, or a worker.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    shell::BEARER_SUBPROTOCOL,
};

use super::{fault::Fault, request_context::current_request_id};
use crate::{app::App, domain::actor::Actor};

/// The actor that the route's guard has recognised.
impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("a handler wants an actor, but its route has none");
            ErrorBody::new(ErrorCode::Internal, "a bug: this route knows no caller").into()
        })
    }
}

/// Recognises the caller that presents `bearer`.
pub(super) async fn authenticate(app: &App, bearer: &str) -> Result<Actor, Fault> {
    let (account, api_key_id) = app.credentials.actor_of(bearer, Timestamp::now()).await?;
    let span = tracing::Span::current();
    span.record("tenant_id", tracing::field::display(account.tenant_id));
    Ok(account.actor(api_key_id, current_request_id()))
}

/// What the caller presents. On a WebSocket it may be in a subprotocol: browsers let no other
/// header be set.
pub(super) fn credential(headers: &HeaderMap, is_websocket: bool) -> Result<&str, Fault> {
    if headers.contains_key(header::AUTHORIZATION) || !is_websocket {
        return bearer(headers)
            .ok_or_else(|| unauthorized("no API key: send `Authorization: Bearer sgk_…`"));
    }
    bearer_protocol(headers).map(|(_, key)| key).ok_or_else(|| {
        unauthorized(
            "no API key: send `Authorization: Bearer sgk_…`, or the subprotocol `bearer.sgk_…`",
        )
    })
}

/// The subprotocol that carried the key, if one did: browsers want it back. It is never to be logged.
pub(super) struct KeyProtocol(pub Option<String>);

impl<S: Sync> FromRequestParts<S> for KeyProtocol {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        if parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(Self(None));
        }
        Ok(Self(bearer_protocol(&parts.headers).map(|(protocol, _)| protocol.to_owned())))
    }
}

/// A subprotocol with a key, and the key.
fn bearer_protocol(headers: &HeaderMap) -> Option<(&str, &str)> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered = values.iter().filter_map(|value| value.to_str().ok());
    offered.find_map(|offered| {
        let mut protocols = offered.split(',').map(str::trim);
        protocols.find_map(|protocol| Some((protocol, protocol.strip_prefix(BEARER_SUBPROTOCOL)?)))
    })
}

/// Refuses who does not present the worker token.
pub(super) fn worker_only(app: &App, headers: &HeaderMap) -> Result<(), Fault> {
    match bearer(headers) {
        Some(token) if app.worker_token.is(token) => Ok(()),
        Some(_) => Err(unauthorized(
            "the worker token does not match: SCAIBUNKER_WORKER_TOKEN must be the same on the \
             worker and the controller",
        )),
        None => Err(unauthorized("no worker token: send `Authorization: Bearer …`")),
    }
}

/// RFC 9110: the scheme's name has no case.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(message: &str) -> Fault {
    ErrorBody::new(ErrorCode::Unauthorized, message).into()
}

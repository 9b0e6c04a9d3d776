//! Who calls: an API key's owner, or a worker.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    shell::BEARER_SUBPROTOCOL,
};

use super::{fault::Fault, request_context::current_request_id};
use crate::{
    app::App,
    data_dir::hash_of,
    domain::actor::{Actor, Reach, permissions_of},
    failure::Failure,
};

impl FromRequestParts<Arc<App>> for Actor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let Some(key) = bearer(&parts.headers) else {
            return Err(unauthorized("no API key: send `Authorization: Bearer sgk_…`"));
        };
        Self::of_key(key, app).await
    }
}

impl Actor {
    async fn of_key(key: &str, app: &App) -> Result<Self, Fault> {
        let account = app.store.account(&hash_of(key)).await.map_err(Failure::from)?;
        let Some(account) = account else {
            return Err(unauthorized("this API key is not known, or was replaced"));
        };
        let span = tracing::Span::current();
        span.record("tenant_id", tracing::field::display(account.tenant_id));
        Ok(Self {
            tenant_id: account.tenant_id,
            user_id: account.user_id,
            api_key_id: None,
            reach: Reach::Platform,
            permissions: permissions_of(account.role).into(),
            is_viewer: false,
            group_ids: Arc::default(),
            quota_profiles: Arc::default(),
            request_id: current_request_id(),
        })
    }
}

/// A caller on a WebSocket, for which browsers let no header be set but the subprotocol.
pub(super) struct SocketActor {
    pub actor: Actor,
    /// The subprotocol that carried the key: browsers want it back. It is never to be logged.
    pub protocol: Option<String>,
}

impl FromRequestParts<Arc<App>> for SocketActor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        if parts.headers.contains_key(header::AUTHORIZATION) {
            let actor = Actor::from_request_parts(parts, app).await?;
            return Ok(Self { actor, protocol: None });
        }
        let Some((protocol, key)) = bearer_protocol(&parts.headers) else {
            return Err(unauthorized(
                "no API key: send `Authorization: Bearer sgk_…`, or the subprotocol `bearer.sgk_…`",
            ));
        };
        let actor = Actor::of_key(key, app).await?;
        Ok(Self { actor, protocol: Some(protocol.to_owned()) })
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

/// Proof that the request comes from a worker.
pub(super) struct FromWorker;

impl FromRequestParts<Arc<App>> for FromWorker {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        match bearer(&parts.headers) {
            Some(token) if app.worker_token.is(token) => Ok(Self),
            Some(_) => Err(unauthorized(
                "the worker token does not match: SCAIBUNKER_WORKER_TOKEN must be the same on the \
                 worker and the controller",
            )),
            None => Err(unauthorized("no worker token: send `Authorization: Bearer …`")),
        }
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

//! Who calls: an API key's owner, or a worker.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use scaibunker_api::error::{ErrorBody, ErrorCode};

use super::{fault::Fault, request_context::current_request_id};
use crate::{app::App, data_dir::hash_of, domain::actor::Actor, failure::Failure};

impl FromRequestParts<Arc<App>> for Actor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let Some(key) = bearer(parts) else {
            return Err(unauthorized("no API key: send `Authorization: Bearer sgk_…`"));
        };
        let account = app.store.account(&hash_of(key)).await.map_err(Failure::from)?;
        let Some(account) = account else {
            return Err(unauthorized("this API key is not known, or was replaced"));
        };
        let span = tracing::Span::current();
        span.record("tenant_id", tracing::field::display(account.tenant_id));
        Ok(Self {
            tenant_id: account.tenant_id,
            user_id: account.user_id,
            permissions: account.role.permissions().to_vec(),
            request_id: current_request_id(),
        })
    }
}

/// Proof that the request comes from a worker.
pub(super) struct FromWorker;

impl FromRequestParts<Arc<App>> for FromWorker {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        match bearer(parts) {
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
fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(message: &str) -> Fault {
    ErrorBody::new(ErrorCode::Unauthorized, message).into()
}

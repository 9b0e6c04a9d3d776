//! `/storage/capabilities`, and `/storage/output/{bunker_id}/{name}` for callers with an API key.
//! Everything else below `/storage` is between workers, signed URLs, capability tokens and the storage
//! proxy.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use scaibunker_api::{
    API_PREFIX,
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    storage::{Capability, MintCapability},
};
use scaibunker_storage::MintError;
use schemars::JsonSchema;
use tower::ServiceExt as _;

use super::{
    actor::bearer,
    answer::Answer,
    body::JsonBody,
    bunkers::note,
    fault::Fault,
    path::not_found,
    query::{NoQuery, Query},
};
use crate::{
    app::App,
    domain::{actor::Actor, capability, violations::Violations},
    failure::chain,
};

/// Where requests for outputs go.
#[derive(Clone)]
pub(super) struct Outputs {
    pub app: Arc<App>,
    /// The one route, behind its guard.
    pub router: Router,
}

/// What the storage proxy has stored.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what the storage proxy answers")]
pub(super) struct Stored {
    key: String,
    size_bytes: u64,
}

/// Stands in front of the storage proxy's routes.
pub(super) async fn serve_outputs(
    State(outputs): State<Outputs>,
    request: Request,
    next: Next,
) -> Response {
    let is_user = bearer(request.headers()).is_some_and(|token| {
        !outputs.app.worker_token.is(token) && !scaibunker_storage::is_capability(token)
    });
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if is_user && is_read && output_of(request.uri().path()).is_some() {
        return outputs.router.oneshot(request).await.into_response();
    }
    next.run(request).await
}

/// The bunker and the key of an output that a path names.
fn output_of(path: &str) -> Option<(BunkerId, &str)> {
    let key = path.strip_prefix(API_PREFIX)?.strip_prefix("/storage/")?;
    let (id, name) = key.strip_prefix("output/")?.split_once('/')?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let is_name = !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_plain);
    is_name.then(|| Some((id.parse().ok()?, key)))?
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    actor: Actor,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let Some((id, key)) = output_of(uri.path()) else {
        return Err(not_found("the path names no output".to_owned()));
    };
    note(id);
    app.bunkers.get(&actor, id).await?;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let object = app.objects.read(key, range).await.map_err(|error| {
        tracing::error!(key, error = chain(&error), "an output cannot be read");
        ErrorBody::from(&error)
    })?;
    let object = object.ok_or_else(|| {
        let message = format!("there is no output `{key}`, or not any more");
        ErrorBody::new(ErrorCode::NotFound, message)
    })?;
    let mut response = (object.status, object.headers, object.body).into_response();
    // What a command prints is nothing for a browser to show on the API's origin.
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    if method == Method::HEAD {
        *response.body_mut() = axum::body::Body::empty();
    }
    Ok(response)
}

/// Gives whoever shows the answer's token a right to the objects below a prefix.
pub(super) async fn mint(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(body): JsonBody<MintCapability>,
) -> Result<Answer<Capability>, Fault> {
    capability::check_prefix(&actor, &body.prefix)?;
    let minted = app.objects.mint_capability(&body.prefix, &body.methods, body.ttl_s);
    Ok(Answer(StatusCode::CREATED, minted.map_err(|error| unminted(&error))?))
}

fn unminted(error: &MintError) -> ErrorBody {
    let mut violations = Violations::default();
    if let Some(field) = error.field() {
        violations.add(field, error.to_string());
    }
    match violations.into_result() {
        Err(refusal) => refusal,
        Ok(()) => {
            tracing::error!(error = chain(error), "no capability token can be minted");
            ErrorBody::new(ErrorCode::Internal, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_outputs_are_for_api_keys() {
        let id = BunkerId::generate();
        let path = format!("{API_PREFIX}/storage/output/{id}/exe_1.stdout");
        let key = format!("output/{id}/exe_1.stdout");
        assert_eq!(output_of(&path), Some((id, key.as_str())));
        for path in [
            format!("/storage/files/{id}/x"),
            format!("/storage/output/{id}"),
            format!("/storage/output/{id}/"),
            format!("/storage/output/{id}/.."),
            format!("/storage/output/{id}/a/b"),
            format!("/storage/output/{id}/%2e%2e"),
            "/storage/output/x/y".to_owned(),
        ] {
            assert_eq!(output_of(&format!("{API_PREFIX}{path}")), None, "{path}");
        }
    }
}

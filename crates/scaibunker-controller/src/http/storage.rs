//! `/storage/output/{bunker_id}/{name}` for callers with an API key. Everything else below
//! `/storage` is between workers, signed URLs and the storage proxy.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    permission::Permission,
};

use super::{actor::bearer, bunkers::note, fault::Fault};
use crate::{app::App, data_dir::KEY_PREFIX, domain::actor::Actor, failure::chain};

/// Stands in front of the storage proxy's routes.
pub(super) async fn serve_outputs(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let has_key = bearer(request.headers()).is_some_and(|token| token.starts_with(KEY_PREFIX));
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    match output_of(request.uri().path()) {
        Some((id, key)) if has_key && is_read => {
            let key = key.to_owned();
            read(&app, id, &key, request).await.unwrap_or_else(IntoResponse::into_response)
        }
        _ => next.run(request).await,
    }
}

/// The bunker and the key of an output that a path names.
fn output_of(path: &str) -> Option<(BunkerId, &str)> {
    let key = path.strip_prefix("/storage/")?;
    let (id, name) = key.strip_prefix("output/")?.split_once('/')?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let is_name = !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_plain);
    is_name.then(|| Some((id.parse().ok()?, key)))?
}

async fn read(
    app: &Arc<App>,
    id: BunkerId,
    key: &str,
    request: Request,
) -> Result<Response, Fault> {
    note(id);
    let is_head = request.method() == Method::HEAD;
    let (mut parts, _) = request.into_parts();
    let actor = Actor::from_request_parts(&mut parts, app).await?;
    actor.require(Permission::Execute)?;
    app.bunkers.get(&actor, id).await?;
    let range = parts.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
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
    if is_head {
        *response.body_mut() = axum::body::Body::empty();
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_outputs_are_for_api_keys() {
        let id = BunkerId::generate();
        let path = format!("/storage/output/{id}/exe_1.stdout");
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
            assert_eq!(output_of(&path), None, "{path}");
        }
    }
}

//! `PUT/GET/HEAD /storage/{kind}/…`: objects streamed to and from the store.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Extension, Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use scaibunker_api::{
    REQUEST_ID_HEADER,
    envelope::{Envelope, ErrorEnvelope, Meta, Status},
    error::{ErrorBody, ErrorCode, chain},
    ids::RequestId,
};
use serde::Serialize;

use crate::{
    Objects, StorageError, WorkerToken,
    access::{self, Access},
    read::Conditions,
    upload::UploadError,
};

struct Proxy {
    objects: Objects,
    worker_token: WorkerToken,
}

/// An object's name and size.
#[derive(Debug, Serialize)]
struct Stored {
    key: String,
    size_bytes: u64,
}

/// The proxy's routes. They answer in the API's envelope; the request id is the [`RequestId`]
/// among the request's extensions, or a new one.
pub fn router(objects: Objects, worker_token: WorkerToken) -> Router {
    let proxy = Arc::new(Proxy { objects, worker_token });
    Router::new()
        .route("/storage/{*key}", get(read).put(write))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&proxy), authorise))
        .with_state(proxy)
}

/// A failure and the request it belongs to.
pub(crate) struct Failure(pub(crate) ErrorBody, pub(crate) RequestId);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error, request_id) = self;
        let status = error.code.http_status();
        let meta = Meta { request_id };
        (status, Json(ErrorEnvelope { status: Status::Error, error, meta })).into_response()
    }
}

async fn authorise(
    State(proxy): State<Arc<Proxy>>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    mut request: Request,
    next: Next,
) -> Response {
    let known = request.extensions().get::<RequestId>().copied();
    let request_id = known.unwrap_or_else(RequestId::generate);
    let access = access::check(
        &proxy.objects,
        &proxy.worker_token,
        request.method(),
        &key,
        query.as_deref().unwrap_or_default(),
        request.headers(),
    );
    let mut response = match access {
        Ok(access) => {
            request.extensions_mut().insert(request_id);
            request.extensions_mut().insert(access);
            next.run(request).await
        }
        Err(error) => Failure(error, request_id).into_response(),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

/// The object appears under its key when all of it is there; a refused or broken upload leaves
/// what was there before.
async fn write(
    State(proxy): State<Arc<Proxy>>,
    Extension(request_id): Extension<RequestId>,
    Extension(access): Extension<Access>,
    Path(key): Path<String>,
    body: Body,
) -> Result<Response, Failure> {
    let stored = proxy.objects.write(&key, body, access.max_bytes).await;
    let size_bytes = stored.map_err(|error| Failure(refusal(&key, &error), request_id))?;
    let data = Stored { key, size_bytes };
    let meta = Meta { request_id };
    Ok((StatusCode::CREATED, Json(Envelope { status: Status::Ok, data, meta })).into_response())
}

fn refusal(key: &str, error: &UploadError) -> ErrorBody {
    match error {
        UploadError::Body(_) => {
            tracing::warn!(key, error = chain(error), "an upload broke off");
            let message = "the body broke off; nothing of it was kept: send the object again";
            ErrorBody::new(ErrorCode::BadRequest, message)
        }
        UploadError::TooLarge { max_bytes } => ErrorBody::new(
            ErrorCode::PayloadTooLarge,
            format!(
                "the signed URL takes at most {max_bytes} bytes; nothing was kept: ask for a URL \
                 with a larger bound"
            ),
        ),
        UploadError::Storage(error) => failed(key, error),
    }
}

/// Serves GET, and HEAD without a body.
async fn read(
    State(proxy): State<Arc<Proxy>>,
    Extension(request_id): Extension<RequestId>,
    method: Method,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let fail = |error| Failure(error, request_id);
    let absent =
        || fail(ErrorBody::new(ErrorCode::NotFound, format!("there is no object `{key}`")));
    if method == Method::HEAD {
        let found = proxy.objects.find(&key).await.map_err(|e| fail(failed(&key, &e)))?;
        return Ok(found.ok_or_else(absent)?.headers().into_response());
    }
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let conditions = Conditions {
        range: text(header::RANGE),
        if_range: text(header::IF_RANGE),
        if_none_match: text(header::IF_NONE_MATCH),
    };
    let answer = proxy.objects.read_if(&key, conditions).await;
    let answer = answer.map_err(|e| fail(failed(&key, &e)))?.ok_or_else(absent)?;
    if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
        let message = "the range starts behind the end of the object; Content-Range has its size";
        let refusal = fail(ErrorBody::new(ErrorCode::RangeNotSatisfiable, message));
        let size = answer.headers.get(header::CONTENT_RANGE).cloned();
        let mut response = refusal.into_response();
        response.headers_mut().extend(size.map(|size| (header::CONTENT_RANGE, size)));
        return Ok(response);
    }
    Ok((answer.status, answer.headers, answer.body).into_response())
}

fn failed(key: &str, error: &StorageError) -> ErrorBody {
    match error {
        StorageError::Key(_) | StorageError::Lifetime | StorageError::NoSecret => {}
        StorageError::NoSpace { .. } => {
            tracing::warn!(key, error = chain(error), "the object store is full");
        }
        StorageError::Store { .. } => {
            tracing::error!(key, error = chain(error), "the object store failed");
        }
    }
    error.into()
}

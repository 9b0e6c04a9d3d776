//! `PUT/GET/HEAD /storage/{kind}/…`: objects streamed to and from the store.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Extension, Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, WriteMultipart};
use scaibunker_api::{
    REQUEST_ID_HEADER,
    envelope::{Envelope, ErrorEnvelope, Meta, Status},
    error::{ErrorBody, ErrorCode},
    ids::RequestId,
};
use serde::Serialize;

use crate::{WorkerToken, key};

/// Parts of one upload on their way to the store at once.
const PARTS_IN_FLIGHT: usize = 4;
const PART_BYTES: usize = 5 * 1024 * 1024;

struct Proxy {
    store: Arc<dyn ObjectStore>,
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
pub fn router(store: Arc<dyn ObjectStore>, worker_token: WorkerToken) -> Router {
    let proxy = Arc::new(Proxy { store, worker_token });
    Router::new()
        .route("/storage/{*key}", get(read).put(write))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&proxy), authorise))
        .with_state(proxy)
}

/// A failure and the request it belongs to.
struct Failure(ErrorBody, RequestId);

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
    mut request: axum::extract::Request,
    next: Next,
) -> Response {
    let known = request.extensions().get::<RequestId>().copied();
    let request_id = known.unwrap_or_else(RequestId::generate);
    request.extensions_mut().insert(request_id);
    let mut response = match proxy.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error, request_id).into_response(),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

impl Proxy {
    fn check(&self, headers: &HeaderMap) -> Result<(), ErrorBody> {
        let presented = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let message = match presented {
            None => {
                "no credential: send the worker token as `Authorization: Bearer …`; capability \
                 tokens are not accepted by this server"
            }
            Some(token) if self.worker_token.is(token) => return Ok(()),
            Some(_) => {
                "the worker token does not match: SCAIBUNKER_WORKER_TOKEN must be the same on \
                 the worker and the storage proxy; the capability token check did not apply: this \
                 server accepts none"
            }
        };
        Err(ErrorBody::new(ErrorCode::Unauthorized, message))
    }
}

fn place_of(key: &str) -> Result<object_store::path::Path, ErrorBody> {
    key::parse(key).ok_or_else(|| {
        ErrorBody::new(
            ErrorCode::NotFound,
            "no object can have this key: it starts with images, snapshots, output, files or \
             audit, and has plain segments without `..`",
        )
    })
}

async fn write(
    State(proxy): State<Arc<Proxy>>,
    Extension(request_id): Extension<RequestId>,
    Path(key): Path<String>,
    body: Body,
) -> Result<Response, Failure> {
    let size_bytes =
        store_object(&proxy, &key, body).await.map_err(|error| Failure(error, request_id))?;
    let data = Stored { key, size_bytes };
    let meta = Meta { request_id };
    Ok((StatusCode::CREATED, Json(Envelope { status: Status::Ok, data, meta })).into_response())
}

/// The object appears under its key when all of it is there; a broken upload leaves nothing.
async fn store_object(proxy: &Proxy, key: &str, body: Body) -> Result<u64, ErrorBody> {
    let place = place_of(key)?;
    let upload = proxy.store.put_multipart(&place).await.map_err(|e| broken(key, e))?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
    let mut pieces = body.into_data_stream();
    let mut size_bytes = 0;
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                tracing::warn!(key, %error, "an upload broke off");
                if let Err(error) = upload.abort().await {
                    tracing::warn!(key, %error, "a broken upload could not be cleaned up");
                }
                let message = "the body broke off; send the object again";
                return Err(ErrorBody::new(ErrorCode::BadRequest, message));
            }
        };
        upload.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(|e| broken(key, e))?;
        size_bytes += piece.len() as u64;
        upload.put(piece);
    }
    upload.finish().await.map_err(|e| broken(key, e))?;
    Ok(size_bytes)
}

/// Serves GET, and HEAD without a body.
async fn read(
    State(proxy): State<Arc<Proxy>>,
    Extension(request_id): Extension<RequestId>,
    method: Method,
    Path(key): Path<String>,
) -> Result<Response, Failure> {
    let fail = |error| Failure(error, request_id);
    let place = place_of(&key).map_err(fail)?;
    if method == Method::HEAD {
        let meta = proxy.store.head(&place).await.map_err(|e| fail(broken(&key, e)))?;
        return Ok((describe(&meta), Body::empty()).into_response());
    }
    let object = proxy.store.get(&place).await.map_err(|e| fail(broken(&key, e)))?;
    let headers = describe(&object.meta);
    let pieces = object.into_stream().inspect_err(move |error| {
        tracing::warn!(key, %error, "a download broke off");
    });
    Ok((headers, Body::from_stream(pieces)).into_response())
}

fn describe(meta: &ObjectMeta) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, meta.size.into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let tag = meta.e_tag.as_ref().and_then(|tag| HeaderValue::from_str(&format!("\"{tag}\"")).ok());
    if let Some(tag) = tag {
        headers.insert(header::ETAG, tag);
    }
    headers
}

fn broken(key: &str, error: object_store::Error) -> ErrorBody {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return ErrorBody::new(ErrorCode::NotFound, format!("there is no object `{key}`"));
    }
    tracing::error!(key, %error, "the object store failed");
    ErrorBody::new(ErrorCode::Internal, "the object store failed; the log has the cause")
}

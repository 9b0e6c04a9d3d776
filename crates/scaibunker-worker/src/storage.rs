//! Objects at the storage proxy, streamed both ways.

use axum::body::Body;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use scaibunker_api::{
    API_PREFIX,
    envelope::ErrorEnvelope,
    error::{ErrorBody, ErrorCode},
};

use crate::http_client::{HttpClient, HttpError};

const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// An object could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("there is no object `{0}` at the storage proxy")]
    NotFound(String),
    #[error("the storage proxy refused: {0}")]
    Refused(ErrorBody),
    #[error("the storage proxy answered with status {0} and something unexpected")]
    Unexpected(StatusCode),
}

impl StorageError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Http(_) | Self::Unexpected(_) => true,
            Self::NotFound(_) => false,
            Self::Refused(error) => error.code.http_status().is_server_error(),
        }
    }
}

/// One storage proxy and the worker token for it.
pub struct StorageClient {
    http: HttpClient<Body>,
}

impl StorageClient {
    /// A client of the storage proxy at `base`, such as `http://127.0.0.1:8420`. Nothing is
    /// dialled yet.
    pub fn new(base: &str, token: &str) -> Result<Self, StorageError> {
        Ok(Self { http: HttpClient::new(base, token)? })
    }

    /// Stores `body` under `key`; an error in the body leaves nothing there.
    pub async fn put(&self, key: &str, body: Body) -> Result<(), StorageError> {
        let request = self
            .http
            .request(Method::PUT, &object_path(key))
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let response = self.http.send(request, body).await?;
        if response.status().is_success() { Ok(()) } else { Err(refusal(key, response).await) }
    }

    /// The object's bytes, as fast as they are read; with a length where the proxy tells it.
    pub async fn get(&self, key: &str) -> Result<Incoming, StorageError> {
        let request = self.http.request(Method::GET, &object_path(key));
        let response = self.http.send(request, Body::empty()).await?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        Err(refusal(key, response).await)
    }
}

fn object_path(key: &str) -> String {
    format!("{API_PREFIX}/storage/{key}")
}

async fn refusal(key: &str, response: http::Response<Incoming>) -> StorageError {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    match serde_json::from_slice::<ErrorEnvelope>(&bytes) {
        Ok(answer) if answer.error.code == ErrorCode::NotFound => {
            StorageError::NotFound(key.to_owned())
        }
        Ok(answer) => StorageError::Refused(answer.error),
        Err(_) => StorageError::Unexpected(status),
    }
}

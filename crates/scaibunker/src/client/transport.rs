//! One HTTP exchange: headers, TLS, bounds and what a bad answer becomes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use scaibunker_api::{API_PREFIX, REQUEST_ID_HEADER};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    endpoint::Endpoint,
    error::{ClientError, WireError, root_cause},
};

/// Largest JSON answer that is read: two outputs of 1 MiB, each byte at worst six in JSON.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Characters of an answer outside the contract that an error shows.
const MAX_SHOWN_CHARS: usize = 200;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence after which the kernel asks whether the peer's machine is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);

/// How long an idle connection is kept for the next call.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection pool with a base address and a credential.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Endpoint,
}

/// A complete answer with a success status.
pub(super) struct Answer {
    status: StatusCode,
    body: Bytes,
    request_id: Option<String>,
}

impl Answer {
    /// The answer as the envelope that the route promises.
    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Unexpected {
            reason: format!("status {}, {error}", self.status.as_u16()),
            request_id: self.request_id.clone(),
        })
    }
}

impl Transport {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE_TIME));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(endpoint.is_https)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        Ok(Self { http, endpoint: endpoint.clone() })
    }

    /// A call whose whole answer is read, within [`MAX_ANSWER_BYTES`] and `limit`.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let exchange = async {
            let response = self.open(method, path, body).await?;
            let (status, request_id) = (response.status(), request_id(response.headers()));
            let body = read(response.into_body(), &request_id).await?;
            Ok(Answer { status, body, request_id })
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or(Err(ClientError::TooSlow { limit_s: limit.as_secs() }))
    }

    /// A call whose answer's body is still to be read; a status other than success is an error.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, ClientError> {
        let response =
            self.http.request(self.request(method, path, body)?).await.map_err(|error| {
                if error.is_connect() {
                    ClientError::Unreachable {
                        base: self.endpoint.base.clone(),
                        is_local: self.endpoint.is_local,
                        reason: root_cause(&error),
                    }
                } else {
                    ClientError::Interrupted { reason: root_cause(&error), request_id: None }
                }
            })?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let unusable = |reason: String| ClientError::Unexpected { reason, request_id: None };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{API_PREFIX}{path}", self.endpoint.base))
            .header(header::AUTHORIZATION, self.endpoint.authorization.clone());
        let body = match body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|error| unusable(error.to_string()))?.into()
            }
        };
        request.body(Full::new(body)).map_err(|error| unusable(error.to_string()))
    }
}

/// The roots are read from the machine only when they are needed.
fn tls_config(is_https: bool) -> Result<ClientConfig, ClientError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?;
    let builder = if is_https {
        builder.with_native_roots().map_err(|error| ClientError::Tls(error.to_string()))?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    headers.get(REQUEST_ID_HEADER)?.to_str().ok().map(str::to_owned)
}

async fn read(body: Incoming, request_id: &Option<String>) -> Result<Bytes, ClientError> {
    let collected = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| ClientError::Interrupted {
        reason: root_cause(error.as_ref()),
        request_id: request_id.clone(),
    })
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    #[derive(Deserialize)]
    struct ErrorAnswer {
        error: WireError,
    }

    let (status, request_id) = (response.status(), request_id(response.headers()));
    let body = match read(response.into_body(), &request_id).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    match serde_json::from_slice::<ErrorAnswer>(&body) {
        Ok(answer) => answer.error.into_error(Some(status), request_id),
        Err(_) => {
            let text = String::from_utf8_lossy(&body);
            let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
            ClientError::Unexpected {
                reason: format!("status {}, {shown:?}", status.as_u16()),
                request_id,
            }
        }
    }
}

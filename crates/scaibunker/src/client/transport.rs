//! One HTTP exchange: headers, TLS, bounds and what a bad answer becomes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt as _, Limited};
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
    content::{Content, RequestBody},
    endpoint::Endpoint,
    error::{ClientError, WireError, root_cause},
};

/// What the paths of identity and of the audit log begin with.
const PLATFORM_PREFIX: &str = "/v1/";

/// Largest JSON answer that is read: two outputs of 1 MiB, each byte at worst six in JSON.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Characters of an answer outside the contract that an error shows.
const MAX_SHOWN_CHARS: usize = 200;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence after which the kernel asks whether the peer's machine is still there, and how often it
/// asks before the connection counts as broken.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long an idle connection is kept for the next call.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) type Pool = legacy::Client<HttpsConnector<HttpConnector>, RequestBody>;

/// A connection pool with a base address and a credential.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    http: Pool,
    endpoint: Endpoint,
}

/// A complete answer with a success status.
pub(super) struct Answer {
    status: StatusCode,
    body: Bytes,
    request_id: Option<String>,
}

impl Answer {
    async fn read(response: Response<Incoming>) -> Result<Self, ClientError> {
        let (status, request_id) = (response.status(), request_id(response.headers()));
        let body = read(response.into_body(), &request_id).await?;
        Ok(Self { status, body, request_id })
    }

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
        Ok(Self { http: pool(endpoint.is_https)?, endpoint: endpoint.clone() })
    }

    /// Where the controller is, such as `http://127.0.0.1:8420`.
    pub(super) fn base(&self) -> &str {
        &self.endpoint.base
    }

    /// A call whose whole answer is read, within [`MAX_ANSWER_BYTES`] and `limit`.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let exchange = async { Answer::read(self.open(method, path, body).await?).await };
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
        let head = self.head(method, path);
        let request = match body {
            None => head.body(RequestBody::default()),
            Some(body) => {
                let json = serde_json::to_vec(body).map_err(unusable)?;
                head.header(header::CONTENT_TYPE, "application/json")
                    .body(Content::from(Bytes::from(json)).into_body())
            }
        };
        self.request(request.map_err(unusable)?).await
    }

    /// A `PUT` of bytes that may be many; as long as they flow it may take its time.
    pub(super) async fn put(&self, path: &str, content: Content) -> Result<Answer, ClientError> {
        let request = content.onto(self.head(Method::PUT, path)).map_err(unusable)?;
        Answer::read(self.request(request).await?).await
    }

    /// A `PUT` to a signed URL, which may be anywhere and gets no credential.
    pub(super) async fn put_signed(
        &self,
        url: &str,
        headers: &BTreeMap<String, String>,
        content: Content,
    ) -> Result<(), ClientError> {
        let head = with_headers(Method::PUT, url, headers);
        elsewhere(content.onto(head).map_err(unusable)?).await.map(drop)
    }

    /// A `GET` of the same kind.
    pub(super) async fn get_signed(
        &self,
        url: &str,
        headers: &BTreeMap<String, String>,
    ) -> Result<Response<Incoming>, ClientError> {
        let head = with_headers(Method::GET, url, headers);
        elsewhere(head.body(RequestBody::default()).map_err(unusable)?).await
    }

    /// Asks for another protocol on the connection of a call; the answer is 101.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, ClientError> {
        let mut head = self.head(Method::GET, path);
        for (name, value) in headers {
            head = head.header(*name, *value);
        }
        let response = self.send(head.body(RequestBody::default()).map_err(unusable)?).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            Ok(response)
        } else {
            Err(refusal(response).await)
        }
    }

    /// Paths are the module's, but those of the platform, which say so themselves.
    fn head(&self, method: Method, path: &str) -> request::Builder {
        let prefix = if path.starts_with(PLATFORM_PREFIX) { "" } else { API_PREFIX };
        Request::builder()
            .method(method)
            .uri(format!("{}{prefix}{path}", self.endpoint.base))
            .header(header::AUTHORIZATION, self.endpoint.authorization.clone())
    }

    async fn request(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, ClientError> {
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, ClientError> {
        let endpoint = &self.endpoint;
        let answer = self.http.request(request).await;
        answer.map_err(|error| failed(&error, &endpoint.base, endpoint.is_local))
    }
}

fn with_headers(method: Method, url: &str, headers: &BTreeMap<String, String>) -> request::Builder {
    let head = Request::builder().method(method).uri(url);
    headers.iter().fold(head, |head, (name, value)| head.header(name, value))
}

/// Sends a request to wherever it says, without this client's credential.
async fn elsewhere(request: Request<RequestBody>) -> Result<Response<Incoming>, ClientError> {
    let is_https = request.uri().scheme_str() == Some("https");
    let base = request.uri().authority().map_or_else(String::new, ToString::to_string);
    let answer = pool(is_https)?.request(request).await;
    let response = answer.map_err(|error| failed(&error, &base, false))?;
    if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
}

/// Connections to any server; `is_https` says whether certificates are going to be checked.
pub(super) fn pool(is_https: bool) -> Result<Pool, ClientError> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_TIME));
    tcp.set_keepalive_interval(Some(KEEPALIVE_TIME));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls_config(is_https)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .build(connector))
}

/// A request that cannot even be written.
fn unusable(error: impl std::fmt::Display) -> ClientError {
    ClientError::Unexpected { reason: error.to_string(), request_id: None }
}

fn failed(error: &legacy::Error, base: &str, is_local: bool) -> ClientError {
    let reason = root_cause(error);
    if error.is_connect() {
        ClientError::Unreachable { base: base.to_owned(), is_local, reason }
    } else {
        ClientError::Interrupted { reason, request_id: None }
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

//! An HTTP client that presents the worker token to one base URL.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Servers close connections that idle for longer; a request must not meet that.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// A request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("the URL {base} or the worker token cannot be used in a request")]
    Unusable { base: String, source: http::Error },
    #[error("cannot set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot reach {base}")]
    Unreachable { base: String, source: legacy::Error },
}

/// One base URL and the token for it; `B` is the body of its requests.
pub(crate) struct HttpClient<B> {
    http: legacy::Client<HttpsConnector<HttpConnector>, B>,
    base: String,
    authorization: HeaderValue,
}

impl<B> HttpClient<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A client of the server at `base`. Nothing is dialled yet.
    pub fn new(base: &str, token: &str) -> Result<Self, HttpError> {
        let base = base.trim_end_matches('/').to_owned();
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|e| HttpError::Unusable { base: base.clone(), source: e.into() })?;
        authorization.set_sensitive(true);
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&base)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(connector);
        Ok(Self { http, base, authorization })
    }

    /// The base URL, without a `/` at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request for `path` below the base, with the token.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, self.authorization.clone())
    }

    /// Sends the request and waits for the head of its answer.
    pub async fn send(
        &self,
        request: http::request::Builder,
        body: B,
    ) -> Result<Response<Incoming>, HttpError> {
        let base = || self.base.clone();
        let request =
            request.body(body).map_err(|source| HttpError::Unusable { base: base(), source })?;
        let answer = self.http.request(request).await;
        answer.map_err(|source| HttpError::Unreachable { base: base(), source })
    }
}

/// The machine's root certificates are read only when they are needed.
fn tls_config(base: &str) -> Result<ClientConfig, HttpError> {
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|e| HttpError::Tls(e.into()))?;
    let builder = if base.starts_with("https:") {
        builder.with_native_roots().map_err(|e| HttpError::Tls(e.into()))?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

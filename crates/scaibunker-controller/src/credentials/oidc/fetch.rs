//! Documents of the issuer: small, soon, and from nowhere else than where they should be.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::de::DeserializeOwned;
use url::{Host, Url};

use super::OidcError;

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// For a whole document.
const DOCUMENT_LIMIT: Duration = Duration::from_secs(5);
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// A document could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is not to be asked: it is neither `https` nor on this machine")]
    NotAllowed(String),
    #[error("cannot ask {url}")]
    Request { url: Url, source: http::Error },
    #[error("{url} does not answer")]
    Connect { url: Url, source: hyper_util::client::legacy::Error },
    #[error("{0} took longer than 5 s")]
    Slow(Url),
    #[error("{url} answered {status}")]
    Status { url: Url, status: StatusCode },
    #[error("the answer of {url} broke off, or is longer than 256 KiB")]
    Body { url: Url, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the answer of {url} is not what it should be")]
    Json { url: Url, source: serde_json::Error },
    #[error("the issuer did not answer a moment ago, and is not asked again yet")]
    JustFailed,
    #[error("the document is of the issuer {found:?}, not {wanted:?}")]
    OtherIssuer { found: String, wanted: String },
}

/// A client that follows no redirects.
pub(super) struct Fetcher(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

/// Whether the issuer may be asked here: over TLS, or without leaving the machine.
pub(super) fn is_allowed(url: &Url) -> bool {
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Ipv4(address))) => IpAddr::from(address).is_loopback(),
        ("http", Some(Host::Ipv6(address))) => IpAddr::from(address).is_loopback(),
        ("http", Some(Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}

impl Fetcher {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Result<Self, OidcError> {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        tcp.enforce_http(false);
        let builder = match ca_file {
            Some(path) => HttpsConnectorBuilder::new().with_tls_config(trusting(path)?),
            None => HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                .map_err(OidcError::Roots)?,
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        let mut client = Client::builder(TokioExecutor::new());
        // The issuer is asked too seldom for a connection to be worth keeping.
        client.pool_timer(TokioTimer::new()).pool_max_idle_per_host(0);
        Ok(Self(client.build(connector)))
    }

    /// The JSON document at `url`.
    pub(super) async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, FetchError> {
        let parsed = url.parse().ok().filter(is_allowed);
        let url: Url = parsed.ok_or_else(|| FetchError::NotAllowed(url.to_owned()))?;
        let bytes = tokio::time::timeout(DOCUMENT_LIMIT, self.bytes(&url))
            .await
            .map_err(|_| FetchError::Slow(url.clone()))??;
        serde_json::from_slice(&bytes)
            .map_err(|source| FetchError::Json { url: url.clone(), source })
    }

    async fn bytes(&self, url: &Url) -> Result<Bytes, FetchError> {
        let request = Request::get(url.as_str())
            .header(header::ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|source| FetchError::Request { url: url.clone(), source })?;
        let answer = self.0.request(request).await;
        let answer = answer.map_err(|source| FetchError::Connect { url: url.clone(), source })?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status { url: url.clone(), status: answer.status() });
        }
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT_BYTES).collect().await;
        let body = body.map_err(|source| FetchError::Body { url: url.clone(), source })?;
        Ok(body.to_bytes())
    }
}

/// TLS to servers whose certificates these authorities have signed.
fn trusting(path: PathBuf) -> Result<ClientConfig, OidcError> {
    let mut roots = RootCertStore::empty();
    let failed = |source| OidcError::CaFile { path: path.clone(), source };
    for certificate in CertificateDer::pem_file_iter(&path).map_err(failed)? {
        let certificate = certificate.map_err(failed)?;
        roots
            .add(certificate)
            .map_err(|source| OidcError::Certificate { path: path.clone(), source })?;
    }
    let provider = rustls::crypto::ring::default_provider().into();
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(OidcError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_or_this_machine_is_asked() {
        for (url, allowed) in [
            ("https://issuer.example/a", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080/", true),
            ("http://localhost/", true),
            ("http://issuer.example/", false),
            ("http://localhost.issuer.example/", false),
            ("http://169.254.169.254/", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(is_allowed(&url.parse().unwrap()), allowed, "{url}");
        }
    }
}

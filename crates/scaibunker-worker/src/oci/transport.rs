//! Requests to registries, over connections only to addresses that a tenant may reach.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::timeout;
use tower_service::Service;

use super::OciError;
use crate::chain;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// From the request to the head of its answer.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
const BODY_LIMIT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;

type Connector = HttpsConnector<HttpConnector<Guarded>>;

/// Sends requests and follows redirects.
#[derive(Debug, Clone)]
pub struct Transport {
    http: legacy::Client<Connector, Full<Bytes>>,
    guard: Guard,
}

/// One GET.
pub struct Get<'a> {
    pub uri: Uri,
    pub accept: Option<&'static str>,
    /// Not sent on to another host.
    pub authorization: Option<&'a HeaderValue>,
    /// First byte that is wanted.
    pub from: Option<u64>,
    /// Whose fault a failure is, for its text.
    pub registry: &'a str,
}

impl Transport {
    /// `ca_file`: certificates in PEM that are believed beside the machine's own.
    pub fn new(ca_file: Option<&Path>, allow_loopback: bool) -> Result<Self, OciError> {
        let guard = Guard { allow_loopback };
        let resolver = Guarded { resolver: GaiResolver::new(), guard };
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(ca_file)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { http, guard })
    }

    /// The answer to a GET, whatever its status, after redirects.
    pub async fn get(&self, get: Get<'_>) -> Result<Response<Incoming>, OciError> {
        let unreachable =
            |reason: String| OciError::Unreachable { registry: get.registry.to_owned(), reason };
        let mut uri = get.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.guard.check_literal(&uri)?;
            let mut request = Request::builder()
                .method(Method::GET)
                .uri(&uri)
                .header(header::USER_AGENT, concat!("scaibunker/", env!("CARGO_PKG_VERSION")));
            if let Some(accept) = get.accept {
                request = request.header(header::ACCEPT, accept);
            }
            if let Some(from) = get.from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = get.authorization
                && same_origin(&uri, &get.uri)
            {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let request = request.body(Full::default()).map_err(|e| unreachable(e.to_string()))?;
            let sent = timeout(HEAD_LIMIT, self.http.request(request)).await;
            let answer = sent
                .map_err(|_| unreachable("it does not answer".to_owned()))?
                .map_err(|error| failed(get.registry, &error))?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            uri = target(&uri, answer.headers().get(header::LOCATION))
                .ok_or_else(|| unreachable("it redirects to nowhere".to_owned()))?;
        }
        Err(unreachable("it redirects in a circle".to_owned()))
    }
}

/// A whole body of at most `limit` bytes.
pub async fn whole(
    answer: Response<Incoming>,
    limit: usize,
    registry: &str,
) -> Result<Bytes, OciError> {
    let body = timeout(BODY_LIMIT, Limited::new(answer.into_body(), limit).collect()).await;
    let unreachable = |reason: &str| OciError::Unreachable {
        registry: registry.to_owned(),
        reason: reason.to_owned(),
    };
    match body {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(OciError::Refused(
            format!("{registry} sends a document of more than {limit} bytes"),
        )),
        Ok(Err(_)) => Err(unreachable("its answer broke off")),
        Err(_) => Err(unreachable("its answer does not end")),
    }
}

/// Which addresses may be dialled.
#[derive(Debug, Clone, Copy)]
struct Guard {
    allow_loopback: bool,
}

/// An address that no registry of a tenant's may have.
#[derive(Debug, thiserror::Error)]
#[error("has the address {0}, which images are not fetched from")]
struct Forbidden(IpAddr);

impl Guard {
    /// Link-local addresses hold metadata services; private ones are where own registries are.
    fn allows(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() {
            return self.allow_loopback;
        }
        match address {
            IpAddr::V4(v4) => {
                !(v4.is_unspecified()
                    || v4.is_link_local()
                    || v4.is_multicast()
                    || v4.is_broadcast())
                    && v4 != Ipv4Addr::new(100, 100, 100, 200)
            }
            IpAddr::V6(v6) => {
                !(v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast())
                    // A metadata service that some providers have at a unique local address.
                    && v6 != Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
            }
        }
    }

    /// An address in a URL is dialled without being resolved.
    fn check_literal(self, uri: &Uri) -> Result<(), OciError> {
        let host = uri.host().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match literal {
            Ok(address) if !self.allows(address) => Err(OciError::NotAllowed {
                registry: host.to_owned(),
                reason: Forbidden(address).to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// Resolves names, and fails when one leads to an address that may not be dialled.
#[derive(Debug, Clone)]
pub struct Guarded {
    resolver: GaiResolver,
    guard: Guard,
}

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.resolver.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, guard) = (self.resolver.call(name), self.guard);
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = resolving.await?.collect();
            match addresses.iter().find(|address| !guard.allows(address.ip())) {
                Some(address) => Err(io::Error::other(Forbidden(address.ip()))),
                None => Ok(addresses.into_iter()),
            }
        })
    }
}

fn failed(registry: &str, error: &legacy::Error) -> OciError {
    let registry = registry.to_owned();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(forbidden) = inner.and_then(|inner| inner.downcast_ref::<Forbidden>()) {
            return OciError::NotAllowed { registry, reason: forbidden.to_string() };
        }
        cause = error.source();
    }
    OciError::Unreachable { registry, reason: chain(error) }
}

/// Where a redirect leads; never from https to http.
fn target(from: &Uri, location: Option<&HeaderValue>) -> Option<Uri> {
    let location = location?.to_str().ok()?;
    let to: Uri = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()?
    } else {
        location.parse().ok()?
    };
    let scheme = to.scheme_str()?;
    let is_safe = scheme == "https" || (scheme == "http" && from.scheme_str() == Some("http"));
    (is_safe && to.authority().is_some_and(|host| !host.as_str().contains('@'))).then_some(to)
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, OciError> {
    let setup = |error: &dyn std::fmt::Display| OciError::Setup(error.to_string());
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let Some(ca_file) = ca_file else {
        // A host without certificates can still use registries without TLS.
        let builder = match builder.clone().with_native_roots() {
            Ok(builder) => builder,
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        };
        return Ok(builder.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let own = CertificateDer::pem_file_iter(ca_file).map_err(|error| setup(&error))?;
    for certificate in own {
        let certificate = certificate.map_err(|error| setup(&error))?;
        roots.add(certificate).map_err(|error| setup(&error))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_network_is_out_of_reach() {
        let guard = Guard { allow_loopback: false };
        for refused in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
        ] {
            assert!(!guard.allows(refused.parse().unwrap()), "{refused}");
        }
        for allowed in ["10.0.0.1", "192.168.1.1", "1.1.1.1", "fd00::1", "2606:4700::1"] {
            assert!(guard.allows(allowed.parse().unwrap()), "{allowed}");
        }
        assert!(Guard { allow_loopback: true }.allows("::ffff:127.0.0.1".parse().unwrap()));
        let metadata = Uri::from_static("http://169.254.169.254/v2/");
        assert!(guard.check_literal(&metadata).is_err());
    }

    #[test]
    fn a_redirect_stays_encrypted_and_names_no_user() {
        let from = Uri::from_static("https://registry.example/v2/a/blobs/b");
        let to = |location: &'static str| {
            target(&from, Some(&HeaderValue::from_static(location))).map(|uri| uri.to_string())
        };
        assert_eq!(to("/x?y").as_deref(), Some("https://registry.example/x?y"));
        assert_eq!(to("https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        for refused in ["http://cdn.example/x", "//cdn.example/x", "https://u@cdn.example/x", "x"] {
            assert_eq!(to(refused), None, "{refused}");
        }
        assert!(!same_origin(&from, &Uri::from_static("https://cdn.example/x")));
    }
}

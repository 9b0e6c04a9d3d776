//! HTTP without TLS, for bunkers that may reach some names: every request names its host, so each
//! is looked at, and goes on a connection that was made to that very name.

use std::{convert::Infallible, io::Cursor, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode, Uri,
    header::{self, HeaderValue},
    uri::{Authority, PathAndQuery},
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::http1 as client,
    server::conn::http1 as server,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use scaibunker_api::{
    egress::{EgressProtocol, EgressVerdict},
    host_name::HostName,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::Mutex};

use crate::{
    bunker::{Attempt, Bunker},
    dial::{Dialer, Refusal},
    metered::Metered,
};

/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// And of an answer.
const MAX_ANSWER_HEAD_BYTES: usize = 32 * 1024;

type Body = BoxBody<Bytes, hyper::Error>;

/// One connection from the bunker.
struct Plain {
    bunker: Arc<Bunker>,
    dialer: Arc<Dialer>,
    aim: SocketAddr,
    /// The other side, as long as it stays.
    remote: Option<Remote>,
    /// Both sides of a connection that has become something else than HTTP, such as a WebSocket.
    upgrades: Option<(OnUpgrade, OnUpgrade)>,
}

struct Remote {
    name: HostName,
    requests: client::SendRequest<Incoming>,
}

/// Serves one connection; `first` was read from it before.
pub async fn serve(
    bunker: Arc<Bunker>,
    dialer: Arc<Dialer>,
    guest: TcpStream,
    aim: SocketAddr,
    first: Vec<u8>,
) {
    let plain = Plain { bunker, dialer, aim, remote: None, upgrades: None };
    let plain = Mutex::new(plain);
    let service = hyper::service::service_fn(async |request| {
        let answer = plain.lock().await.answer(request).await;
        Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| explain(&refusal)))
    });
    let (reader, writer) = guest.into_split();
    let io = tokio::io::join(Cursor::new(first).chain(reader), writer);
    let connection = server::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    // What a client does wrong ends its connection, and is nobody else's concern.
    let _ = connection.await;
    if let Some((guest, remote)) = plain.into_inner().upgrades
        && let Ok((guest, remote)) = tokio::try_join!(guest, remote)
    {
        relay(guest, remote).await;
    }
}

async fn relay(guest: Upgraded, remote: Upgraded) {
    let (mut guest, mut remote) = (TokioIo::new(guest), TokioIo::new(remote));
    // Its end is its end, whichever side it comes from.
    let _ = tokio::io::copy_bidirectional(&mut guest, &mut remote).await;
}

impl Plain {
    async fn answer(&mut self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let mut attempt = Attempt { protocol: EgressProtocol::Http, name: None, aim: self.aim };
        let forwarded = async {
            let name = wanted_host(&request)?;
            attempt.name = Some(name.to_string());
            if !self.bunker.policy.names.allow(&name) {
                return Err(Refusal::Name);
            }
            self.forward(&name, &attempt, request).await
        };
        let forwarded = forwarded.await;
        forwarded.inspect_err(|refusal| self.bunker.refuse(&attempt, refusal))
    }

    async fn forward(
        &mut self,
        name: &HostName,
        attempt: &Attempt,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        let is_upgrade = request.headers().contains_key(header::UPGRADE);
        let guest = is_upgrade.then(|| hyper::upgrade::on(&mut request));
        let requests = self.requests(name, attempt).await?;
        let mut answer = requests.send_request(request).await.map_err(Refusal::Http)?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(guest) = guest
        {
            self.upgrades = Some((guest, hyper::upgrade::on(&mut answer)));
        }
        Ok(answer.map(BodyExt::boxed))
    }

    /// The connection to that name, a new one if there is none.
    async fn requests(
        &mut self,
        name: &HostName,
        attempt: &Attempt,
    ) -> Result<&mut client::SendRequest<Incoming>, Refusal> {
        let kept = self.remote.take().filter(|remote| remote.name == *name);
        let kept = match kept {
            Some(mut remote) => remote.requests.ready().await.is_ok().then_some(remote),
            None => None,
        };
        let remote = match kept {
            Some(remote) => remote,
            None => Remote { name: name.clone(), requests: self.connect(name, attempt).await? },
        };
        Ok(&mut self.remote.insert(remote).requests)
    }

    async fn connect(
        &self,
        name: &HostName,
        attempt: &Attempt,
    ) -> Result<client::SendRequest<Incoming>, Refusal> {
        let stream = self.dialer.connect(name, self.aim.port()).await?;
        let aim = stream.peer_addr().map_err(Refusal::Connect)?;
        let open = self.bunker.open(Attempt { aim, ..attempt.clone() })?;
        let stream = Metered::new(stream, open);
        let mut client = client::Builder::new();
        client.max_buf_size(MAX_ANSWER_HEAD_BYTES);
        let (requests, connection) =
            client.handshake(TokioIo::new(stream)).await.map_err(Refusal::Http)?;
        // It ends with the requests, which end with the connection from the bunker.
        tokio::spawn(connection.with_upgrades());
        Ok(requests)
    }
}

/// The host that a request is for, which it says once or twice, but not twice differently.
fn wanted_host<B>(request: &Request<B>) -> Result<HostName, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Protocol("it asks for a tunnel (CONNECT)"));
    }
    // Anything else, HTTP/2 above all, could name other hosts where nobody looks.
    let mut upgrades = request.headers().get_all(header::UPGRADE).iter();
    if upgrades.any(|to| !to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Refusal::Protocol("it asks to become something else than a WebSocket"));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host_of(host),
        _ => None,
    };
    let host = host.ok_or(Refusal::Protocol("it names no host, or more than one"))?;
    match request.uri().authority().map(|authority| HostName::parse(authority.host())) {
        Some(other) if other.as_ref() != Some(&host) => {
            Err(Refusal::Protocol("its Host header and its target disagree"))
        }
        _ => Ok(host),
    }
}

fn host_of(header: &HeaderValue) -> Option<HostName> {
    let authority: Authority = header.to_str().ok()?.parse().ok()?;
    // No credentials belong here; they are a way to confuse whoever looks for the name.
    if authority.as_str().contains('@') {
        return None;
    }
    HostName::parse(authority.host())
}

/// Tells a person at the other end what happened.
fn explain(refusal: &Refusal) -> Response<Body> {
    let (status, text) = match refusal.verdict() {
        EgressVerdict::Failed => (StatusCode::BAD_GATEWAY, format!("{refusal}\n")),
        _ => (StatusCode::FORBIDDEN, format!("refused by the bunker's network: {refusal}\n")),
    };
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(target: &str, hosts: &[&str]) -> Option<String> {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        wanted_host(&request.body(()).unwrap()).ok().map(String::from)
    }

    #[test]
    fn a_request_becomes_a_websocket_or_stays_http() {
        let wanted = |upgrade: &str| {
            let request = Request::builder().header(header::HOST, "example.com");
            wanted_host(&request.header(header::UPGRADE, upgrade).body(()).unwrap()).is_ok()
        };
        assert!(wanted("websocket") && wanted("WebSocket"));
        assert!(!wanted("h2c") && !wanted("websocket, h2c") && !wanted("TLS/1.2"));
    }

    #[test]
    fn a_request_names_one_host() {
        assert_eq!(host("/x", &["Example.com:8080"]).unwrap(), "example.com");
        assert_eq!(host("http://example.com/x", &["example.com"]).unwrap(), "example.com");
        let refused: [(&str, &[&str]); 7] = [
            ("/x", &[]),
            ("/x", &["a.com", "a.com"]),
            ("http://other.com/x", &["example.com"]),
            ("http://1.2.3.4/x", &["example.com"]),
            ("/x", &["1.2.3.4"]),
            ("/x", &["[::1]"]),
            ("/x", &["user@example.com"]),
        ];
        for (target, hosts) in refused {
            assert_eq!(host(target, hosts), None, "{target} {hosts:?}");
        }
    }
}

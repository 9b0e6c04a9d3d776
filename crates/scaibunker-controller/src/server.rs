//! The listening side: connections, and their orderly end.

mod tls;

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

pub use self::tls::{TlsError, TlsFiles};
use crate::{failure::chain, http::Peer};

/// A client that does not finish its request's head, or its TLS handshake, in this time is cut off.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HTTP2_HEAD_BYTES: u32 = 16 * 1024;
const MAX_STREAMS: u32 = 256;
/// Out of descriptors, accepting fails at once and again; the pause lets others end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The tokens that end connections, mildest first.
#[derive(Debug, Clone)]
pub struct Endings {
    /// No new connections; those there are end with the request in hand.
    pub draining: CancellationToken,
    /// Connections are cut.
    pub cut: CancellationToken,
}

/// Accepts connections, TLS ones if it is given, until `draining`; the tracker has those that are
/// left.
pub async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    endings: Endings,
) -> TaskTracker {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = endings.draining.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (tls, router, endings) = (tls.clone(), router.clone(), endings.clone());
                connections.spawn(async move { begin(stream, tls, peer, router, endings).await });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

async fn begin(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    peer: SocketAddr,
    router: Router,
    endings: Endings,
) {
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%peer, %error, "a connection was gone before it was served");
    }
    let Some(tls) = tls else { return serve(stream, peer, router, endings).await };
    match timeout(HEAD_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, peer, router, endings).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    endings: Endings,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HTTP2_HEAD_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let peer_ip = Peer(peer.ip().to_canonical());
    let service =
        TowerToHyperService::new(router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer_ip);
            request
        }));
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = endings.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = endings.cut.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = chain(error.as_ref()), "a connection broke");
    }
}

//! Requests to an S3 server: HTTP/1.1 over TLS with the process's one crypto provider.

use std::{error::Error, fmt::Debug, io, time::Duration};

use async_trait::async_trait;
use axum::http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector as TcpConnector},
    },
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService,
    },
};

use crate::{error::causes, s3::S3Patience};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to S3 servers.
#[derive(Debug)]
pub(crate) struct Transport {
    /// Without it, the host needs no root certificates.
    pub(crate) tls: bool,
    pub(crate) patience: S3Patience,
}

#[derive(Debug)]
struct Connections<C> {
    client: Client<C, HttpRequestBody>,
    patience: S3Patience,
}

/// The server has let the time pass that it had to send something.
#[derive(Debug, thiserror::Error)]
#[error("the S3 server sent nothing for {} ms", .0.as_millis())]
pub(crate) struct Silence(Duration);

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = TcpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_CONNECTION_TIMEOUT);
        if !self.tls {
            return Ok(HttpClient::new(Connections {
                client: client.build(tcp),
                patience: self.patience,
            }));
        }
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| object_store::Error::Generic {
                store: "S3",
                source: format!("cannot load the host's root certificates: {error}").into(),
            })?;
        let tls = tls.https_only().enable_http1().wrap_connector(tcp);
        Ok(HttpClient::new(Connections { client: client.build(tls), patience: self.patience }))
    }
}

#[async_trait]
impl<C> HttpService for Connections<C>
where
    C: Connect + Clone + Debug + Send + Sync + 'static,
{
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let S3Patience { answer, piece, .. } = self.patience;
        let answer = tokio::time::timeout(answer, self.client.request(request))
            .await
            .map_err(|_| HttpError::new(HttpErrorKind::Timeout, Silence(answer)))?
            .map_err(|error| {
                let kind = if error.is_connect() { HttpErrorKind::Connect } else { kind(&error) };
                HttpError::new(kind, error)
            })?;
        Ok(with_timeout(answer, piece))
    }
}

fn with_timeout(answer: Response<Incoming>, limit: Duration) -> HttpResponse {
    let (head, body) = answer.into_parts();
    let pieces = futures_util::stream::try_unfold(body, move |mut body| async move {
        let piece = tokio::time::timeout(limit, body.frame())
            .await
            .map_err(|_| HttpError::new(HttpErrorKind::Timeout, Silence(limit)))?;
        let piece = piece.transpose().map_err(|error| HttpError::new(kind(&error), error))?;
        Ok(piece.map(|piece| (piece, body)))
    });
    HttpResponse::from_parts(head, HttpResponseBody::new(StreamBody::new(pieces)))
}

/// What the store may do about a failure: whether trying again can help.
fn kind(error: &(dyn Error + 'static)) -> HttpErrorKind {
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && (error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted())
        {
            return HttpErrorKind::Request;
        }
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::TimedOut) => return HttpErrorKind::Timeout,
            Some(
                io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof,
            ) => return HttpErrorKind::Interrupted,
            _ => {}
        }
    }
    HttpErrorKind::Unknown
}

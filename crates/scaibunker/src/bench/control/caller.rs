//! A client that costs as little as a client can: one connection, one request at a time.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use scaibunker_api::{API_PREFIX, envelope::ListEnvelope, quota::QuotaProfile};
use serde::Deserialize;
use tokio::{net::TcpStream, task::AbortHandle};

/// The connection.
#[derive(Debug)]
pub struct Caller {
    requests: SendRequest<Full<Bytes>>,
    authorization: HeaderValue,
    host: HeaderValue,
    carrier: AbortHandle,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

/// The part of an answer that the bench looks at.
#[derive(Debug, Deserialize)]
pub struct Created<'a> {
    #[serde(borrow)]
    data: CreatedBunker<'a>,
}

#[derive(Debug, Deserialize)]
struct CreatedBunker<'a> {
    id: &'a str,
    status: &'a str,
}

impl Caller {
    /// Connects to the server at `address`.
    pub async fn connect(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        let carrier = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of the bench broke");
            }
        });
        let mut authorization = HeaderValue::from_str(&format!("Bearer {key}"))?;
        authorization.set_sensitive(true);
        let host = HeaderValue::from_str(&address.to_string())?;
        Ok(Self { requests, authorization, host, carrier: carrier.abort_handle() })
    }

    /// One call on the module's routes; gives the answer's status and body.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{API_PREFIX}{path}"))
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .body(Full::from(body))?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// A call on a route outside the module's.
    pub async fn get_root(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .body(Full::default())?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Makes a bunker, waits until it runs, and ends it.
    pub async fn pair(&mut self, create: &'static str) -> anyhow::Result<()> {
        let (status, body) = self.call(Method::POST, "/bunkers?wait=true", create).await?;
        ensure!(status == StatusCode::CREATED, "a create was answered {status}: {}", shown(&body));
        let Created { data } = serde_json::from_slice(&body)?;
        ensure!(data.status == "running", "a bunker is {} instead of running", data.status);
        let (status, body) =
            self.call(Method::DELETE, &format!("/bunkers/{}", data.id), "").await?;
        ensure!(status == StatusCode::OK, "a delete was answered {status}: {}", shown(&body));
        Ok(())
    }

    /// Has the default quota profile refuse [`CREATE_TOO_LARGE`](super::CREATE_TOO_LARGE).
    pub async fn cap_memory_of_one_bunker(&mut self) -> anyhow::Result<()> {
        let (_, body) = self.call(Method::GET, "/quota-profiles", "").await?;
        let profiles: ListEnvelope<QuotaProfile> = serde_json::from_slice(&body)?;
        let default = profiles.data.iter().find(|profile| profile.is_default);
        let path = format!("/quota-profiles/{}", default.context("no default profile")?.id);
        let (status, body) =
            self.call(Method::PATCH, &path, r#"{"per_bunker_max_memory":4096}"#).await?;
        ensure!(status == StatusCode::OK, "the cap was answered {status}: {}", shown(&body));
        Ok(())
    }
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(300).collect()
}

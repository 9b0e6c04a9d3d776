//! The calls a worker makes to a controller.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, upgrade::Upgraded};
use scaibunker_api::{
    API_PREFIX,
    envelope::{Envelope, ErrorEnvelope},
    error::{ErrorBody, ErrorCode},
    ids::WorkerId,
    worker::{Heard, Heartbeat, LINK_PROTOCOL, RegisterWorker, Registered},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::http_client::{HttpClient, HttpError};

const CALL_LIMIT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A call to the controller failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot call the controller")]
    Http(#[from] HttpError),
    #[error("the controller at {base} did not answer within {} s", CALL_LIMIT.as_secs())]
    Silent { base: String },
    #[error("the controller refused the worker: {0}")]
    Refused(ErrorBody),
    #[error("the controller answered with status {status} and something unexpected")]
    Unexpected { status: StatusCode },
    #[error("the link broke")]
    Broken(#[source] hyper::Error),
}

impl LinkError {
    /// Whether the controller has forgotten the worker, which must then register again.
    #[must_use]
    pub fn is_unknown_worker(&self) -> bool {
        matches!(self, Self::Refused(body) if body.code == ErrorCode::NotFound)
    }
}

/// One controller and the token for it.
pub struct ControllerClient {
    http: HttpClient<Full<Bytes>>,
}

impl ControllerClient {
    /// A client of the controller at `base`. Nothing is dialled yet.
    pub fn new(base: &str, token: &str) -> Result<Self, LinkError> {
        Ok(Self { http: HttpClient::new(base, token)? })
    }

    /// Introduces the worker and learns its id.
    pub async fn register(&self, worker: &RegisterWorker) -> Result<Registered, LinkError> {
        let response = self.post("/workers/register", worker).await?;
        Ok(read::<Envelope<Registered>>(response).await?.data)
    }

    /// The controller's base URL.
    pub fn base(&self) -> &str {
        self.http.base()
    }

    /// Reports what the worker holds.
    pub async fn heartbeat(&self, id: WorkerId, heartbeat: &Heartbeat) -> Result<Heard, LinkError> {
        let response = self.post(&format!("/workers/{id}/heartbeat"), heartbeat).await?;
        Ok(read::<Envelope<Heard>>(response).await?.data)
    }

    /// Opens a link: the connection on which the controller sends its calls.
    pub async fn dial(&self, id: WorkerId) -> Result<Upgraded, LinkError> {
        let request = self
            .request(Method::GET, &format!("/workers/{id}/link"))
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, LINK_PROTOCOL);
        let response = self.send(request, Full::default()).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        hyper::upgrade::on(response).await.map_err(LinkError::Broken)
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        self.http.request(method, &format!("{API_PREFIX}{path}"))
    }

    async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, LinkError> {
        let json = serde_json::to_vec(body).unwrap_or_default();
        let request =
            self.request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
        self.send(request, Full::from(json)).await
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Full<Bytes>,
    ) -> Result<Response<Incoming>, LinkError> {
        let sent = timeout(CALL_LIMIT, self.http.send(request, body)).await;
        Ok(sent.map_err(|_| LinkError::Silent { base: self.http.base().to_owned() })??)
    }
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, LinkError> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let status = response.status();
    let body = whole(response).await.ok_or(LinkError::Unexpected { status })?;
    serde_json::from_slice(&body).map_err(|_| LinkError::Unexpected { status })
}

async fn refusal(response: Response<Incoming>) -> LinkError {
    let status = response.status();
    let body = whole(response).await.unwrap_or_default();
    match serde_json::from_slice::<ErrorEnvelope>(&body) {
        Ok(answer) => LinkError::Refused(answer.error),
        Err(_) => LinkError::Unexpected { status },
    }
}

async fn whole(response: Response<Incoming>) -> Option<Bytes> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    Some(timeout(CALL_LIMIT, body).await.ok()?.ok()?.to_bytes())
}

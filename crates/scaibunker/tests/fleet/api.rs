//! A client of one controller or another.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use scaibunker_api::API_PREFIX;
use serde_json::Value;

/// No request may take longer: whatever befalls the fleet, everyone gets an answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    base: String,
    key: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub json: Value,
}

impl Answer {
    pub fn data(&self) -> &Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.json);
        &self.json["data"]
    }

    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or("none")
    }
}

impl Api {
    pub fn new(base: String, key: String) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), base, key }
    }

    /// The answer, or why there is none: the controller went away meanwhile.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{API_PREFIX}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.key));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::from(text)).unwrap();
        let began = Instant::now();
        let exchange = async {
            let (head, body) =
                self.http.request(request).await.map_err(|error| error.to_string())?.into_parts();
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Ok(Answer { status: head.status, json })
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, exchange).await;
        answer.unwrap_or_else(|_| panic!("no answer from {path} after {:?}", began.elapsed()))
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.try_call(method, path, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }
}

/// Waits for a condition; the limit only ends a test that has failed.
pub async fn within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

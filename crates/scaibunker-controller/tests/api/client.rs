//! A client that sees what any client sees.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use scaibunker_api::API_PREFIX;
use serde_json::Value;

#[derive(Clone)]
pub struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    pub base: String,
    pub key: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Answer {
    /// The data of a good answer.
    pub fn data(&self) -> &Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.json);
        &self.json["data"]
    }

    /// Status and code of a bad answer, whose envelope is checked.
    pub fn error(&self) -> (u16, &str) {
        assert_eq!(self.json["status"], "error", "{}", self.json);
        assert!(!self.json["error"]["message"].as_str().unwrap().is_empty());
        (self.status.as_u16(), self.json["error"]["code"].as_str().unwrap())
    }

    /// The fields that the details name.
    pub fn fields(&self) -> Vec<&str> {
        let details = self.json["error"]["details"].as_array();
        details.into_iter().flatten().map(|detail| detail["field"].as_str().unwrap()).collect()
    }
}

impl Api {
    pub fn new(base: String, key: String) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), base, key }
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let path = match path.strip_prefix("//") {
            Some(root) => format!("/{root}"),
            None => format!("{API_PREFIX}{path}"),
        };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !self.key.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.key));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.http.request(request).await.unwrap()
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (parts, body) = self.send(method, path, headers, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let json: Value = serde_json::from_slice(&body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&body)));
        assert_eq!(
            json["meta"]["request_id"].as_str().unwrap(),
            parts.headers["x-request-id"].to_str().unwrap()
        );
        Answer { status: parts.status, headers: parts.headers, json }
    }

    /// An answer that is not in the envelope.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let (parts, body) = self.send(method, path, headers, body).await.into_parts();
        assert!(parts.headers.contains_key("x-request-id"));
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }

    /// A call whose good answer is 204.
    pub async fn done(&self, method: Method, path: &str, body: &Value) {
        let answer = self.raw(method, path, &[], body.to_string()).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{:?}", answer.body());
        assert!(answer.body().is_empty());
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, &[], body.to_string()).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path, &[], body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, &[], "").await
    }

    /// The id of a bunker that runs.
    pub async fn running_bunker(&self) -> String {
        let body = serde_json::json!({ "image": "busybox" });
        let answer = self.post("/bunkers?wait=true", &body).await;
        assert_eq!(answer.data()["status"], "running", "{}", answer.json);
        answer.data()["id"].as_str().unwrap().to_owned()
    }

    /// The bunker, once it has the status.
    pub async fn bunker_becomes(&self, id: &str, status: &str) -> Value {
        let path = format!("/bunkers/{id}");
        let mut last = Value::Null;
        let found = eventually(async || {
            last = self.get(&path).await.data().clone();
            last["status"] == status
        })
        .await;
        assert!(found, "not {status}: {last}");
        last
    }
}

/// Whether the condition holds within a time that is long enough for every task to run.
pub async fn eventually(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let patience = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), patience).await.is_ok()
}

/// The value, once it has not changed for a while.
pub async fn settled<T: PartialEq>(mut value: impl AsyncFnMut() -> T) -> T {
    let mut last = value().await;
    let mut same = 0;
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = value().await;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

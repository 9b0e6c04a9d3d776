//! A store, the proxy before it, and the client calls of the tests.

use std::path::{Path, PathBuf};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, Response, StatusCode},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use scaibunker_api::{envelope::ErrorEnvelope, error::ErrorBody};
use scaibunker_storage::{Objects, SigningSecret, WorkerToken, router};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt as _;

use crate::{
    common::{self, S3Server},
    listing,
};

pub const TOKEN: &str = "worker-secret";
pub const SIGNING_SECRET: &str = "signing-secret";
/// Below which the proxy is served, as the controller does.
const PREFIX: &str = "/v1/modules/scaibunker";

pub struct Stage {
    pub objects: Objects,
    proxy: Router,
    /// Where a directory's objects are.
    files: PathBuf,
    s3: Option<S3Server>,
    /// Kept until the end.
    dir: TempDir,
}

impl Stage {
    pub fn directory() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("objects");
        let objects = Objects::directory(&files, SigningSecret::new(SIGNING_SECRET)).unwrap();
        Self::new(files, dir, objects, None)
    }

    pub fn s3() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = S3Server::start();
        let objects =
            Objects::s3(common::config(&server.endpoint), SigningSecret::new(SIGNING_SECRET))
                .unwrap();
        Self::new(dir.path().to_owned(), dir, objects, Some(server))
    }

    fn new(files: PathBuf, dir: TempDir, objects: Objects, s3: Option<S3Server>) -> Self {
        let proxy = router(objects.clone(), WorkerToken::new(TOKEN));
        Self { objects, proxy, files, s3, dir }
    }

    /// The same store, for a proxy with another secret or none.
    pub fn objects_with(&self, secret: Option<SigningSecret>) -> Objects {
        match &self.s3 {
            Some(server) => Objects::s3(common::config(&server.endpoint), secret).unwrap(),
            None => Objects::directory(&self.files, secret).unwrap(),
        }
    }

    pub fn is_s3(&self) -> bool {
        self.s3.is_some()
    }

    /// A directory next to the store's.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything that the store keeps, unfinished uploads included.
    pub async fn kept(&self) -> Vec<String> {
        match &self.s3 {
            Some(server) => listing::kept(&server.endpoint).await,
            None => files_below(&self.files),
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.proxy.clone().oneshot(request).await.unwrap()
    }

    pub async fn call(&self, method: Method, key: &str, body: impl Into<Body>) -> Response<Body> {
        self.send(request(method, key, TOKEN, body)).await
    }

    pub async fn put(&self, key: &str, body: impl Into<Body>) {
        let put = self.call(Method::PUT, key, body).await;
        assert_eq!(put.status(), StatusCode::CREATED, "{:?}", bytes(put).await);
    }

    pub async fn get(&self, key: &str) -> Bytes {
        let get = self.call(Method::GET, key, "").await;
        assert_eq!(get.status(), StatusCode::OK);
        bytes(get).await
    }

    pub async fn get_with(&self, key: &str, headers: &[(&'static str, &str)]) -> Response<Body> {
        let mut request = request(Method::GET, key, TOKEN, "");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        self.send(request).await
    }

    /// Serves the proxy on a port, and returns the address of the API.
    pub async fn serve(&self) -> Server {
        let app = Router::new().nest(PREFIX, self.proxy.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}{PREFIX}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server { base_url, serving }
    }
}

/// Ends when dropped.
pub struct Server {
    pub base_url: String,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub fn request(method: Method, key: &str, token: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("/storage/{key}"))
        .header("authorization", format!("Bearer {token}"))
        .body(body.into())
        .unwrap()
}

/// Sends a request over the network, with no credential but its URL.
pub async fn fetch(
    method: Method,
    url: &str,
    body: impl Into<Body>,
) -> (StatusCode, HeaderMap, Bytes) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder().method(method).uri(url).body(body.into()).unwrap();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

pub async fn bytes(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

pub async fn refusal(response: Response<Body>) -> ErrorBody {
    refused(&bytes(response).await)
}

pub fn refused(body: &[u8]) -> ErrorBody {
    serde_json::from_slice::<ErrorEnvelope>(body).unwrap().error
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => dirs.push(entry),
                false => files.push(entry.to_string_lossy().into_owned()),
            }
        }
    }
    files
}

/// Waits for something that happens soon.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "waited in vain: {what}");
}

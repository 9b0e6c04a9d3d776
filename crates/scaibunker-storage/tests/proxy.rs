//! The proxy's routes over a directory.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

use std::{io, path::Path};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use scaibunker_api::envelope::ErrorEnvelope;
use scaibunker_storage::{WorkerToken, open_directory, router};
use tower::ServiceExt as _;

const TOKEN: &str = "worker-secret";

fn proxy(dir: &Path) -> Router {
    router(open_directory(dir).unwrap(), WorkerToken::new(TOKEN))
}

async fn call(
    proxy: &Router,
    method: Method,
    path: &str,
    token: &str,
    body: impl Into<Body>,
) -> Response<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(body.into())
        .unwrap();
    proxy.clone().oneshot(request).await.unwrap()
}

async fn bytes(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

fn files_in(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_in(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn what_is_put_can_be_read_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(dir.path());
    let path = "/storage/snapshots/bnk_1/disk";
    // Several parts, none of them a whole one.
    let large: Vec<u8> = (0..12_345_678u32).map(|number| number as u8).collect();
    for object in [large, b"small".to_vec(), Vec::new()] {
        let size = object.len().to_string();
        let pieces: Vec<_> =
            object.chunks(65_537).map(Bytes::copy_from_slice).map(Ok::<_, io::Error>).collect();
        let body = Body::from_stream(stream::iter(pieces));
        let put = call(&proxy, Method::PUT, path, TOKEN, body).await;
        assert_eq!(put.status(), StatusCode::CREATED);
        assert!(put.headers().contains_key("x-request-id"));

        let head = call(&proxy, Method::HEAD, path, TOKEN, "").await;
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers()["content-length"], *size);
        assert!(bytes(head).await.is_empty());

        let get = call(&proxy, Method::GET, path, TOKEN, "").await;
        assert_eq!(get.headers()["content-length"], *size);
        assert_eq!(bytes(get).await, object);
    }
    assert_eq!(files_in(dir.path()), 1);
}

#[tokio::test]
async fn a_broken_upload_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(dir.path());
    let path = "/storage/files/a";
    call(&proxy, Method::PUT, path, TOKEN, "first").await;
    let pieces = [Ok(Bytes::from(vec![1; 6 << 20])), Err(io::Error::other("reset"))];
    let body = Body::from_stream(stream::iter(pieces));
    let broken = call(&proxy, Method::PUT, path, TOKEN, body).await;
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    assert_eq!(bytes(call(&proxy, Method::GET, path, TOKEN, "").await).await, "first");
    assert_eq!(files_in(dir.path()), 1, "no half an object stays");
}

#[tokio::test]
async fn nothing_outside_of_the_known_kinds_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let objects = dir.path().join("objects");
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    let proxy = proxy(&objects);
    for path in [
        "/storage/files/../../../secret",
        "/storage/files/%2e%2e/%2e%2e/%2e%2e/secret",
        "/storage/files/..%2f..%2f..%2fsecret",
        "/storage/files//etc/passwd",
        "/storage/secret",
        "/storage/other/x",
        "/storage/files/%00",
    ] {
        for method in [Method::GET, Method::HEAD, Method::PUT] {
            let answer = call(&proxy, method.clone(), path, TOKEN, "x").await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
    assert_eq!(files_in(&objects), 0);
    assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"secret");
}

#[tokio::test]
async fn only_the_worker_token_opens_it_and_the_answer_says_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(dir.path());
    for (token, said) in [("", "worker token"), ("wrong", "worker token does not match")] {
        for method in [Method::GET, Method::PUT] {
            let answer = call(&proxy, method, "/storage/files/a", token, "x").await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            let answer: ErrorEnvelope = serde_json::from_slice(&bytes(answer).await).unwrap();
            let message = answer.error.message;
            assert!(message.contains(said) && message.contains("capability"), "{message}");
            assert!(!message.contains(TOKEN));
        }
    }
    assert_eq!(files_in(dir.path()), 0);
}

//! An S3 server that is away, stalls, breaks off, or does not know the credentials.

use std::{io, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Response, StatusCode},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use scaibunker_api::error::ErrorCode;
use scaibunker_storage::{Objects, S3Config, S3Patience, StorageError, WorkerToken, router};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::{
    chaos::{Chaos, Weather},
    common::{self, S3Server},
    listing,
    stage::{self, TOKEN},
};

const KEY: &str = "files/a";
/// Several parts.
const LARGE: usize = 20 << 20;

/// A server, the weather before it, and a proxy that does not wait for long.
struct Outage {
    server: S3Server,
    chaos: Chaos,
    proxy: Router,
}

impl Outage {
    async fn new() -> Self {
        let server = S3Server::start();
        let chaos = Chaos::before(&server.endpoint).await;
        let patience = S3Patience {
            answer: Duration::from_millis(1500),
            piece: Duration::from_millis(500),
            retries: Duration::from_millis(1500),
        };
        let config = S3Config { patience, ..common::config(&chaos.endpoint) };
        let proxy = router(Objects::s3(config, None).unwrap(), WorkerToken::new(TOKEN));
        Self { server, chaos, proxy }
    }

    async fn call(&self, method: Method, body: impl Into<Body>) -> Response<Body> {
        self.proxy.clone().oneshot(stage::request(method, KEY, TOKEN, body)).await.unwrap()
    }

    async fn put(&self, size: usize) -> Response<Body> {
        self.call(Method::PUT, pieces(size)).await
    }

    async fn kept(&self) -> Vec<String> {
        listing::kept(&self.server.endpoint).await
    }
}

fn object(size: usize) -> Vec<u8> {
    (0..size).map(|byte| (byte / 251) as u8).collect()
}

fn pieces(size: usize) -> Body {
    let object = object(size);
    let pieces: Vec<_> =
        object.chunks(65_536).map(Bytes::copy_from_slice).map(Ok::<_, io::Error>).collect();
    Body::from_stream(stream::iter(pieces))
}

async fn is_reported(answer: Response<Body>, said: &str) {
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let error = stage::refusal(answer).await;
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(error.message.contains(said), "{}", error.message);
}

async fn is_a_clear_failure(config: S3Config) {
    let secret = config.secret_access_key.clone();
    let objects = Objects::s3(config, None).unwrap();
    let error = objects.head(KEY).await.unwrap_err();
    assert!(matches!(error, StorageError::Store { .. }));
    assert!(!format!("{error:?}").contains(&secret));

    let proxy = router(objects, WorkerToken::new(TOKEN));
    for method in [Method::GET, Method::PUT] {
        let request = stage::request(method, KEY, TOKEN, "x");
        is_reported(proxy.clone().oneshot(request).await.unwrap(), "object store failed").await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_a_clear_failure() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    is_a_clear_failure(common::config(&format!("http://{free}"))).await;
}

#[tokio::test]
async fn wrong_credentials_are_a_clear_failure() {
    let server = S3Server::start();
    let secret_access_key = "0".repeat(64);
    let config = S3Config { secret_access_key, ..common::config(&server.endpoint) };
    is_a_clear_failure(config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_are_tried_again() {
    let outage = Outage::new().await;
    // Before the head of the answer is whole, while parts are sent and when the object is complete.
    outage.chaos.cut(2, 10);
    assert_eq!(outage.put(LARGE).await.status(), StatusCode::CREATED);
    assert_eq!(outage.chaos.cuts(), 2);
    assert_eq!(outage.kept().await, [format!("scaibunker/{KEY}")]);

    // In the middle of what is read.
    outage.chaos.cut(2, LARGE as u64 / 3);
    let read = outage.call(Method::GET, "").await;
    assert!(stage::bytes(read).await == object(LARGE));
    assert_eq!(outage.chaos.cuts(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_is_reported_and_leaves_no_half_object() {
    let outage = Outage::new().await;
    outage.chaos.set(Weather::Silent);
    for size in [10, LARGE] {
        is_reported(outage.put(size).await, "did not answer in time").await;
    }
    is_reported(outage.call(Method::GET, "").await, "did not answer in time").await;
    let head = outage.call(Method::HEAD, "").await;
    assert_eq!(head.status(), StatusCode::INTERNAL_SERVER_ERROR);
    // The server may have carried out what it could not answer to; nobody sees half an object.
    outage.chaos.set(Weather::Fair);
    let read = outage.call(Method::GET, "").await;
    if read.status() == StatusCode::OK {
        let read = stage::bytes(read).await;
        assert!(read == object(10) || read == object(LARGE), "{} bytes", read.len());
    }
    assert_eq!(outage.put(LARGE).await.status(), StatusCode::CREATED);
    assert!(stage::bytes(outage.call(Method::GET, "").await).await == object(LARGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_in_an_upload_leaves_what_was_there() {
    let outage = Outage::new().await;
    assert_eq!(outage.put(10).await.status(), StatusCode::CREATED);
    let (sender, pieces) = tokio::sync::mpsc::channel::<Result<Bytes, io::Error>>(1);
    let body = stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    let feeding = async {
        sender.send(Ok(object(LARGE / 2).into())).await.unwrap();
        stage::until("an upload is under way", async || outage.kept().await.len() == 2).await;
        outage.chaos.cut(u64::MAX, 0);
        sender.send(Ok(object(LARGE / 2).into())).await.unwrap();
        drop(sender);
    };
    let (answer, ()) = tokio::join!(outage.call(Method::PUT, Body::from_stream(body)), feeding);
    is_reported(answer, "object store failed").await;
    outage.chaos.set(Weather::Fair);
    assert!(stage::bytes(outage.call(Method::GET, "").await).await == object(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_too_little_breaks_the_download_off() {
    let outage = Outage::new().await;
    assert_eq!(outage.put(LARGE).await.status(), StatusCode::CREATED);
    outage.chaos.cut(u64::MAX, 1 << 20);
    let read = outage.call(Method::GET, "").await;
    assert_eq!(read.headers()["content-length"], *LARGE.to_string());
    assert!(read.into_body().collect().await.is_err(), "the reader is not told");

    outage.chaos.set(Weather::Fair);
    let read = outage.call(Method::GET, "").await;
    let mut body = read.into_body();
    body.frame().await.unwrap().unwrap();
    outage.chaos.set(Weather::Silent);
    assert!(body.collect().await.is_err(), "the reader waits for ever");
}

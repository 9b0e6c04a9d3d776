//! What only the proxy's own signed URLs can do: bound the size of what they take, and say what is
//! wrong with a request.

use std::{io, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use bytes::Bytes;
use futures_util::stream;
use scaibunker_api::error::ErrorCode;

use crate::stage::{Stage, fetch, refused};

const HOUR: Duration = Duration::from_secs(3600);
const BOUND: usize = 3 << 20;

#[tokio::test]
async fn a_signed_url_takes_no_more_than_its_bound() {
    let stage = Stage::directory();
    let server = stage.serve().await;
    let key = "files/bnk_1/a";
    let signed = stage.objects.presign_put(key, HOUR, Some(BOUND as u64), &server.base_url);
    let url = signed.await.unwrap().url;
    // Without an announced length, the bound is met on the way.
    let streamed = |size| {
        let piece = Bytes::from(vec![1; size]);
        Body::from_stream(stream::iter([Ok::<_, io::Error>(piece)]))
    };
    for body in [Body::from(vec![1; BOUND + 1]), streamed(BOUND + 1)] {
        let (status, _, body) = fetch(Method::PUT, &url, body).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        let error = refused(&body);
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
        assert!(error.message.contains(&BOUND.to_string()), "{}", error.message);
        assert!(stage.kept().await.is_empty(), "{:?}", stage.kept().await);
    }
    for body in [Body::from(vec![1; BOUND]), streamed(BOUND), Body::empty()] {
        let (status, ..) = fetch(Method::PUT, &url, body).await;
        assert_eq!(status, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_refusal_says_which_check_failed_and_keeps_the_secrets() {
    let stage = Stage::directory();
    let key = "files/bnk_1/a";
    let signed = stage.objects.presign_put(key, HOUR, None, "http://api").await.unwrap();
    let path = signed.url.strip_prefix("http://api").unwrap();
    for (method, path, said) in [
        (Method::PUT, path.replace("expires=", "expires=1"), "the signature does not match"),
        (Method::PUT, format!("{path}&max_bytes=1"), "the signature does not match"),
        (Method::GET, path.to_owned(), "for another method than GET"),
        (Method::HEAD, path.to_owned(), ""),
    ] {
        let request = Request::builder().method(&method).uri(path).body(Body::from("x")).unwrap();
        let answer = stage.send(request).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.headers().contains_key("x-request-id"));
        let body = crate::stage::bytes(answer).await;
        if method == Method::HEAD {
            continue;
        }
        let message = refused(&body).message;
        assert!(message.contains(said), "{message}");
        assert!(!message.contains("signing-secret") && !message.contains("worker-secret"));
    }
}

//! Signed URLs, sent over the network by a client without any other credential. With a directory
//! they lead to the proxy, with S3 to its server.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use scaibunker_storage::StorageError;

use crate::stage::{self, Stage, TOKEN, fetch, request};

const HOUR: Duration = Duration::from_secs(3600);
const KEY: &str = "files/bnk_1/01932d7e";

/// What the servers answer, and say, when a signature has expired.
fn expiry(stage: &Stage) -> (StatusCode, &'static str) {
    match stage.is_s3() {
        true => (StatusCode::BAD_REQUEST, "Date is too old"),
        false => (StatusCode::UNAUTHORIZED, "expired"),
    }
}

pub async fn a_signed_url_stores_its_object_until_it_expires(stage: Stage) {
    let server = stage.serve().await;
    let signed = stage.objects.presign_put(KEY, HOUR, Some(100), &server.base_url).await.unwrap();
    assert!(signed.headers.is_empty());
    for object in ["first", "the last one wins"] {
        let (status, _, body) = fetch(Method::PUT, &signed.url, object).await;
        assert!(status.is_success(), "{status} {body:?}");
        assert_eq!(stage.get(KEY).await, object);
    }

    let second = Duration::from_secs(1);
    let short = stage.objects.presign_put(KEY, second, None, &server.base_url).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let (status, _, body) = fetch(Method::PUT, &short.url, "late").await;
            if !status.is_success() {
                return (status, body);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let (status, body) = refused.await.unwrap();
    let (expected, said) = expiry(&stage);
    assert_eq!(status, expected);
    assert!(String::from_utf8_lossy(&body).contains(said), "{body:?}");

    for ttl in [Duration::ZERO, HOUR * 24 * 7 + second] {
        let refused = stage.objects.presign_put(KEY, ttl, None, &server.base_url).await;
        assert!(matches!(refused, Err(StorageError::Lifetime)));
    }
    let refused = stage.objects.presign_put("files/../x", HOUR, None, &server.base_url).await;
    assert!(matches!(refused, Err(StorageError::Key(_))));
}

pub async fn a_changed_signed_url_is_refused(stage: Stage) {
    let server = stage.serve().await;
    let signed = stage.objects.presign_put(KEY, HOUR, Some(100), &server.base_url).await.unwrap();
    let (address, query) = signed.url.split_once('?').unwrap();
    // Each character in its turn is another one of its kind.
    for place in 0..query.len() {
        let changed: String = query
            .chars()
            .enumerate()
            .map(|(at, character)| match character {
                _ if at != place => character,
                '9' => '0',
                'z' => 'a',
                'Z' => 'A',
                '0'..='8' | 'a'..='y' | 'A'..='Y' => char::from(character as u8 + 1),
                _ => 'x',
            })
            .collect();
        let (status, ..) = fetch(Method::PUT, &format!("{address}?{changed}"), "x").await;
        assert!(!status.is_success(), "{status}: {changed}");
    }
    let elsewhere = address.replace("bnk_1", "bnk_2");
    for (method, url) in [
        (Method::PUT, format!("{elsewhere}?{query}")),
        (Method::GET, signed.url.clone()),
        (Method::DELETE, signed.url.clone()),
    ] {
        let (status, ..) = fetch(method.clone(), &url, "x").await;
        assert!(status.is_client_error(), "{status}: {method} {url}");
    }
    assert!(stage.kept().await.is_empty(), "{:?}", stage.kept().await);
}

pub async fn the_signature_alone_decides(stage: Stage) {
    let key = format!("{KEY}?method=PUT&expires=9999999999&signature={}", "0".repeat(64));
    for token in [TOKEN, "none"] {
        let refused = stage.send(request(Method::PUT, &key, token, "x")).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let message = stage::refusal(refused).await.message;
        assert!(message.contains("the signature does not match"), "{message}");
    }
    assert!(stage.kept().await.is_empty());
}

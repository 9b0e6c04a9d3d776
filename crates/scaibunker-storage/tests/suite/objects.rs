//! Objects in and out of a store.

use std::io;

use axum::{
    body::Body,
    http::{Method, StatusCode},
};
use bytes::Bytes;
use futures_util::stream;
use scaibunker_api::error::ErrorCode;

use crate::stage::{Stage, TOKEN, bytes, refusal, request};

pub async fn what_is_put_can_be_read_and_replaced(stage: Stage) {
    let key = "snapshots/bnk_1/disk";
    assert_eq!(stage.objects.head(key).await.unwrap(), None);
    assert!(stage.objects.read(key, None).await.unwrap().is_none());
    let absent = stage.call(Method::GET, key, "").await;
    assert_eq!(absent.status(), StatusCode::NOT_FOUND);
    // Several parts, none of them a whole one; exactly one part of either store; and less.
    let large: Vec<u8> = (0..15_345_678u32).map(|number| number as u8).collect();
    let parts = [1 << 20, 6 << 20].map(|size| vec![7; size]);
    for object in [large].into_iter().chain(parts).chain([b"small".to_vec(), Vec::new()]) {
        let size = object.len();
        let pieces: Vec<_> =
            object.chunks(65_537).map(Bytes::copy_from_slice).map(Ok::<_, io::Error>).collect();
        let put = stage.call(Method::PUT, key, Body::from_stream(stream::iter(pieces))).await;
        assert_eq!(put.status(), StatusCode::CREATED);
        assert!(put.headers().contains_key("x-request-id"));

        let head = stage.call(Method::HEAD, key, "").await;
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers()["content-length"], *size.to_string());
        assert!(bytes(head).await.is_empty());
        assert_eq!(stage.objects.head(key).await.unwrap(), Some(size as u64));

        let get = stage.call(Method::GET, key, "").await;
        assert_eq!(get.headers()["content-length"], *size.to_string());
        assert!(bytes(get).await == object, "{size} bytes");
    }
    assert_eq!(stage.kept().await.len(), 1, "{:?}", stage.kept().await);
}

pub async fn ranges_are_honoured(stage: Stage) {
    let key = "files/bnk_1/a";
    let object: Vec<u8> = (0..100_000u32).map(|number| (number / 7) as u8).collect();
    stage.put(key, object.clone()).await;
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=10-19", 10..20),
        ("bytes=65000-", 65_000..100_000),
        ("bytes=99999-200000", 99_999..100_000),
        ("bytes=-10", 99_990..100_000),
    ] {
        let answer = stage.get_with(key, &[("range", range)]).await;
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        let described = format!("bytes {}-{}/100000", part.start, part.end - 1);
        assert_eq!(answer.headers()["content-range"], *described);
        assert_eq!(answer.headers()["content-length"], *part.len().to_string());
        assert!(bytes(answer).await == object[part], "{range}");
    }
    for range in ["bytes=0-1,4-5", "bytes=5-4", "lines=0-1", "nonsense"] {
        let answer = stage.get_with(key, &[("range", range)]).await;
        assert_eq!(answer.status(), StatusCode::OK, "{range}");
        assert!(bytes(answer).await == object, "{range}");
    }
    let behind = stage.get_with(key, &[("range", "bytes=100000-")]).await;
    assert_eq!(behind.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(behind.headers()["content-range"], "bytes */100000");
    assert_eq!(refusal(behind).await.code, ErrorCode::RangeNotSatisfiable);
}

pub async fn unchanged_objects_are_not_sent_again(stage: Stage) {
    let key = "images/a";
    stage.put(key, "first").await;
    let tag = stage.call(Method::HEAD, key, "").await.headers()["etag"].clone();
    let tag = tag.to_str().unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");

    let same = stage.get_with(key, &[("if-none-match", tag)]).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    assert!(bytes(same).await.is_empty());
    let part = stage.get_with(key, &[("range", "bytes=1-2"), ("if-range", tag)]).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(bytes(part).await, "ir");

    stage.put(key, "second").await;
    let changed = stage.get_with(key, &[("if-none-match", tag)]).await;
    assert_eq!(bytes(changed).await, "second");
    let whole = stage.get_with(key, &[("range", "bytes=1-2"), ("if-range", tag)]).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(bytes(whole).await, "second");
}

pub async fn deleting_is_idempotent(stage: Stage) {
    stage.put("files/bnk_1/a", "a").await;
    stage.put("files/bnk_1/b", "b").await;
    for _ in 0..2 {
        stage.objects.delete("files/bnk_1/a").await.unwrap();
        assert_eq!(stage.objects.head("files/bnk_1/a").await.unwrap(), None);
    }
    assert_eq!(stage.get("files/bnk_1/b").await, "b");
    stage.objects.delete("files/bnk_1/b").await.unwrap();
    assert!(stage.kept().await.is_empty(), "{:?}", stage.kept().await);
}

pub async fn nothing_outside_of_the_known_kinds_is_reached(stage: Stage) {
    std::fs::write(stage.dir().join("secret"), "secret").unwrap();
    let before = stage.kept().await;
    for key in [
        "files/../../../secret",
        "files/%2e%2e/%2e%2e/%2e%2e/secret",
        "files/..%2f..%2f..%2fsecret",
        "files//etc/passwd",
        "secret",
        "other/x",
        "files/%00",
    ] {
        for method in [Method::GET, Method::HEAD, Method::PUT] {
            let answer = stage.call(method.clone(), key, "x").await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{method} {key}");
        }
        assert!(stage.objects.read(key, None).await.is_err());
        assert!(stage.objects.head(key).await.is_err());
        assert!(stage.objects.delete(key).await.is_err());
    }
    assert_eq!(stage.kept().await, before);
    assert_eq!(std::fs::read(stage.dir().join("secret")).unwrap(), b"secret");
}

pub async fn only_the_worker_token_opens_it(stage: Stage) {
    for (token, said) in [("", "worker token"), ("wrong", "worker token does not match")] {
        for method in [Method::GET, Method::PUT] {
            let answer = stage.send(request(method, "files/a", token, "x")).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            let message = refusal(answer).await.message;
            assert!(message.contains(said) && message.contains("capability"), "{message}");
            assert!(!message.contains(TOKEN));
        }
    }
    assert!(stage.kept().await.is_empty());
}

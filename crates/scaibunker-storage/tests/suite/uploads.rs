//! Uploads that end badly, and large ones.

use std::{io, time::Duration};

use axum::{
    body::Body,
    http::{Method, StatusCode},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;

use crate::stage::{Stage, TOKEN, request, until};

/// More than a part of either store.
const SEVERAL_PARTS: usize = 16 << 20;

pub async fn a_broken_upload_leaves_what_was_there(stage: Stage) {
    let key = "files/a";
    stage.put(key, "first").await;
    for size in [10, SEVERAL_PARTS] {
        let pieces = [Ok(Bytes::from(vec![1; size])), Err(io::Error::other("reset"))];
        let broken = stage.call(Method::PUT, key, Body::from_stream(stream::iter(pieces))).await;
        assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
        assert_eq!(stage.get(key).await, "first");
        assert_eq!(
            stage.kept().await.len(),
            1,
            "no half an object stays: {:?}",
            stage.kept().await
        );
    }
}

pub async fn a_client_that_goes_away_leaves_nothing(stage: Stage) {
    let pieces = stream::iter([Ok::<_, io::Error>(Bytes::from(vec![1; SEVERAL_PARTS]))]);
    let stalled = Body::from_stream(pieces.chain(stream::pending()));
    let put = stage.send(request(Method::PUT, "files/a", TOKEN, stalled));
    let mut put = Box::pin(put);
    let stored = until("the first part is stored", async || !stage.kept().await.is_empty());
    tokio::select! {
        answer = &mut put => panic!("the body has not ended: {answer:?}"),
        () = stored => {}
    }
    drop(put);
    until("the part is taken back", async || stage.kept().await.is_empty()).await;
}

pub async fn old_uploads_are_removed(stage: Stage) {
    stage.put("files/bnk_1/old", "x").await;
    stage.put("images/a", "x").await;
    let hour = Duration::from_secs(3600);
    assert_eq!(stage.objects.remove_uploads_older_than(hour).await.unwrap(), 0);
    assert_eq!(stage.get("files/bnk_1/old").await, "x");
    // Times of objects may be whole seconds.
    let mut removed = 0;
    while removed == 0 {
        removed = stage.objects.remove_uploads_older_than(Duration::ZERO).await.unwrap();
    }
    assert_eq!(removed, 1);
    assert_eq!(stage.objects.head("files/bnk_1/old").await.unwrap(), None);
    assert_eq!(stage.get("images/a").await, "x");
}

pub async fn a_large_object_arrives_bit_for_bit(stage: Stage) {
    const PIECES: u64 = 1024;
    let piece = |number: u64| -> Bytes {
        (0..65_536 / 8).flat_map(|word: u64| (number * 0x9e37_79b9 + word).to_le_bytes()).collect()
    };
    let pieces = stream::iter((0..PIECES).map(piece).map(Ok::<_, io::Error>));
    stage.put("files/bnk_1/large", Body::from_stream(pieces)).await;
    assert_eq!(stage.objects.head("files/bnk_1/large").await.unwrap(), Some(PIECES * 65_536));

    let mut body = stage.call(Method::GET, "files/bnk_1/large", "").await.into_body();
    let (mut at, mut ahead) = (0, Bytes::new());
    while let Some(frame) = body.frame().await {
        let mut read = frame.unwrap().into_data().unwrap();
        while !read.is_empty() {
            if ahead.is_empty() {
                ahead = piece(at);
                at += 1;
            }
            let length = read.len().min(ahead.len());
            assert!(read.split_to(length) == ahead.split_to(length), "in piece {at}");
        }
    }
    assert_eq!((at, ahead.len()), (PIECES, 0));
}

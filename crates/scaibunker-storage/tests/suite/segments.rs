//! Outputs that are stored in segments while their command runs.

use axum::http::{Method, StatusCode};

use crate::stage::{Stage, bytes};

const OUTPUT: &str = "output/bnk_1/exe_1.stdout";

async fn put_segment(stage: &Stage, number: usize, bytes: Vec<u8>) {
    stage.put(&format!("{OUTPUT}/{number:06}"), bytes).await;
}

pub async fn an_output_in_segments_reads_as_one_object(stage: Stage) {
    let mut whole = Vec::new();
    for (number, size) in [70_000, 1, 0, 300_000, 5].into_iter().enumerate() {
        let segment: Vec<u8> = (0..size).map(|byte| (byte * 31 + number) as u8).collect();
        whole.extend_from_slice(&segment);
        put_segment(&stage, number, segment).await;
    }
    // Neither another output nor a stray name is part of it.
    stage.put("output/bnk_1/exe_1.stdout2", "other").await;
    stage.put("output/bnk_1/exe_10.stdout/000000", "other").await;
    stage.put(&format!("{OUTPUT}/00x000"), "stray").await;

    assert_eq!(stage.objects.head(OUTPUT).await.unwrap(), Some(whole.len() as u64));
    let head = stage.call(Method::HEAD, OUTPUT, "").await;
    assert_eq!(head.headers()["content-length"], *whole.len().to_string());
    assert!(stage.get(OUTPUT).await == whole);
    assert_eq!(stage.get(&format!("{OUTPUT}/000001")).await.len(), 1);
    for part in [0..1, 69_999..70_002, 70_000..70_001, 10..370_000, 370_001..370_006] {
        let range = format!("bytes={}-{}", part.start, part.end - 1);
        let answer = stage.get_with(OUTPUT, &[("range", &range)]).await;
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        let described = format!("bytes {}-{}/370006", part.start, part.end - 1);
        assert_eq!(answer.headers()["content-range"], *described);
        assert!(bytes(answer).await == whole[part], "{range}");
    }
    let behind = stage.get_with(OUTPUT, &[("range", "bytes=370006-")]).await;
    assert_eq!(behind.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

pub async fn a_gap_ends_an_output(stage: Stage) {
    put_segment(&stage, 1, b"second".to_vec()).await;
    assert_eq!(stage.objects.head(OUTPUT).await.unwrap(), None, "without its beginning");
    put_segment(&stage, 0, b"first".to_vec()).await;
    put_segment(&stage, 3, b"fourth".to_vec()).await;
    assert_eq!(stage.get(OUTPUT).await, "firstsecond");
    put_segment(&stage, 2, b"third".to_vec()).await;
    assert_eq!(stage.get(OUTPUT).await, "firstsecondthirdfourth");
}

pub async fn an_output_grows_between_reads(stage: Stage) {
    put_segment(&stage, 0, b"one".to_vec()).await;
    let first = stage.call(Method::GET, OUTPUT, "").await;
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    put_segment(&stage, 1, b"two".to_vec()).await;
    assert_eq!(bytes(first).await, "one", "as it was when the reading began");
    let second = stage.get_with(OUTPUT, &[("if-none-match", &tag)]).await;
    assert_eq!(second.status(), StatusCode::OK);
    assert_eq!(bytes(second).await, "onetwo");
    let rest = stage.get_with(OUTPUT, &[("range", "bytes=3-")]).await;
    assert_eq!(bytes(rest).await, "two");
}

pub async fn an_output_is_deleted_with_its_segments(stage: Stage) {
    for number in 0..3 {
        put_segment(&stage, number, vec![1; 10]).await;
    }
    stage.put("output/bnk_1/exe_1.stderr/000000", "kept").await;
    stage.objects.delete(OUTPUT).await.unwrap();
    assert_eq!(stage.kept().await.len(), 1, "{:?}", stage.kept().await);
    assert_eq!(stage.get("output/bnk_1/exe_1.stderr").await, "kept");
    put_segment(&stage, 0, b"new".to_vec()).await;
    assert_eq!(stage.get(OUTPUT).await, "new");
}

//! What happens when the disk below a directory of objects is full.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

use std::{path::Path, process::Command};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use scaibunker_api::{envelope::ErrorEnvelope, error::ErrorCode};
use scaibunker_storage::{Objects, SigningSecret, WorkerToken, router};
use tower::ServiceExt as _;

/// Names the full disk to the test's second self.
const DISK: &str = "SCAIBUNKER_TEST_DISK";
const DISK_BYTES: usize = 4 << 20;

/// The test runs itself again in a mount namespace of its own, on a file system of a few MiB.
#[test]
fn an_upload_to_a_full_disk_is_refused_and_leaves_nothing() {
    if let Some(disk) = std::env::var_os(DISK) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(fill(Path::new(&disk)));
    }
    let disk = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=$1 tmpfs \"$2\" && exec \"$3\" --exact \"$4\" --nocapture";
    let outcome = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh"])
        .arg(DISK_BYTES.to_string())
        .arg(disk.path())
        .arg(std::env::current_exe().unwrap())
        .arg("an_upload_to_a_full_disk_is_refused_and_leaves_nothing")
        .env(DISK, disk.path())
        .output()
        .unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("1 passed"));
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0, "it had a disk of its own");
}

async fn fill(disk: &Path) {
    let objects = Objects::directory(disk, SigningSecret::new("signing-secret")).unwrap();
    let proxy = router(objects.clone(), WorkerToken::new("worker-secret"));
    let put = |key: &str, size: usize| {
        let pieces = vec![Bytes::from(vec![1; 65_536]); size / 65_536];
        let pieces = pieces.into_iter().map(Ok::<_, std::io::Error>);
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("/storage/{key}"))
            .header("authorization", "Bearer worker-secret")
            .body(Body::from_stream(stream::iter(pieces)))
            .unwrap();
        proxy.clone().oneshot(request)
    };
    let kept = put("files/bnk_1/kept", DISK_BYTES / 4).await.unwrap();
    assert_eq!(kept.status(), StatusCode::CREATED);

    // In several parts, and twice what fits; then in one part, with little space left.
    let small = DISK_BYTES / 4 - 65_536;
    for (key, size) in [("files/bnk_1/large", 2 * DISK_BYTES), ("files/bnk_1/small", small)] {
        if size == small {
            let filler = put("files/bnk_1/filler", DISK_BYTES / 2 + DISK_BYTES / 8).await.unwrap();
            assert_eq!(filler.status(), StatusCode::CREATED);
        }
        let full = put(key, size).await.unwrap();
        assert_eq!(full.status(), StatusCode::INSUFFICIENT_STORAGE);
        let body = full.into_body().collect().await.unwrap().to_bytes();
        let error = serde_json::from_slice::<ErrorEnvelope>(&body).unwrap().error;
        assert_eq!(error.code, ErrorCode::NoSpace);
        assert!(error.message.contains("disk of the object store is full"), "{}", error.message);
        assert_eq!(objects.head(key).await.unwrap(), None);
    }
    let names = std::fs::read_dir(disk.join("scaibunker/files/bnk_1")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["filler", "kept"]);
}

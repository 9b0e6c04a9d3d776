//! Clients that others wrote: curl sends objects to signed URLs, boto3 reads from the bucket what
//! has arrived there.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod common;

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use axum::Router;
use http_body_util::BodyExt as _;
use scaibunker_storage::{Objects, SigningSecret, WorkerToken, router};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

const HOUR: Duration = Duration::from_secs(3600);
const KEY: &str = "files/bnk_1/01932d7e";

/// Several parts of either store, and no two alike.
fn object() -> Vec<u8> {
    (0..5_000_011u32).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

async fn run(mut command: Command) -> Output {
    let ended = tokio::task::spawn_blocking(move || command.output());
    ended.await.unwrap().unwrap()
}

/// The status of the answer to curl.
async fn curl_put(file: &Path, url: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}", "--upload-file"]).arg(file).arg(url);
    let output = run(curl).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_reads_what_curl_has_sent_to_the_signed_url() {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/python/bin/python");
    assert!(Path::new(python).exists(), "boto3 is missing: scripts/test installs it");
    let dir = tempfile::tempdir().unwrap();
    let server = common::S3Server::start();
    let config = common::config(&server.endpoint);
    let objects = Objects::s3(config.clone(), None).unwrap();
    let object = object();
    let file = dir.path().join("object");
    std::fs::write(&file, &object).unwrap();

    let signed = objects.presign_put(KEY, HOUR, None, "http://unused").await.unwrap();
    assert!(signed.url.starts_with(&server.endpoint), "{}", signed.url);
    assert_eq!(curl_put(&file, &signed.url).await, "200");
    let changed = signed.url.replace("Expires=3600", "Expires=3601");
    assert_eq!(curl_put(&file, &changed).await, "403");

    let mut boto3 = Command::new(python);
    boto3.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boto3_read.py"));
    boto3.args([&server.endpoint, &config.bucket, &format!("scaibunker/{KEY}")]);
    boto3.env("AWS_ACCESS_KEY_ID", &config.access_key_id);
    boto3.env("AWS_SECRET_ACCESS_KEY", &config.secret_access_key);
    boto3.env("AWS_DEFAULT_REGION", &config.region);
    let output = run(boto3).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let digest: String = Sha256::digest(&object).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = format!("{} {digest}\n", object.len());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sends_to_the_signed_url_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let secret = SigningSecret::new("signing-secret");
    let objects = Objects::directory(&dir.path().join("objects"), secret).unwrap();
    let proxy = router(objects.clone(), WorkerToken::new("token"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Router::new().nest("/v1", proxy);
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let object = object();
    let size = object.len() as u64;
    let file = dir.path().join("object");
    std::fs::write(&file, &object).unwrap();

    let signed = objects.presign_put(KEY, HOUR, Some(size), &base_url).await.unwrap();
    assert_eq!(curl_put(&file, &signed.url).await, "201");
    let changed = signed.url.replace("max_bytes=", "max_bytes=9");
    assert_eq!(curl_put(&file, &changed).await, "401");
    let small = objects.presign_put(KEY, HOUR, Some(size - 1), &base_url).await.unwrap();
    assert_eq!(curl_put(&file, &small.url).await, "413");

    let stored = objects.read(KEY, None).await.unwrap().unwrap();
    assert!(stored.body.collect().await.unwrap().to_bytes() == object);
    serving.abort();
}

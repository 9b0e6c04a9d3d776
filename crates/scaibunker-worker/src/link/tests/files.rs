//! Calls on files, passed on both ways.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Response, StatusCode},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use scaibunker_api::error::ErrorCode;
use scaibunker_guest_protocol::files::CALL_HEADER;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Lab, breaking, error_of, until};
use crate::test_server::serve;

impl Lab {
    async fn files(&self, method: Method, path: &str, call: &Value, body: Body) -> Response<Body> {
        let headers = [(CALL_HEADER, call.to_string()), ("range", "bytes=1-".to_owned())];
        self.call(method, path, &headers, body).await
    }

    async fn get(&self, path: &str) -> Response<Body> {
        self.files(Method::GET, "/files", &on(path), Body::empty()).await
    }

    async fn put(&self, path: &str, body: Body) -> Response<Body> {
        self.files(Method::PUT, "/files", &write(path), body).await
    }

    async fn commit(&self, key: &str) -> Response<Body> {
        let headers = [(CALL_HEADER, write("/committed").to_string())];
        let body = Body::from(json!({ "key": key }).to_string());
        self.call(Method::POST, "/files/commit", &headers, body).await
    }

    fn bodies(&self) -> Vec<Result<usize, String>> {
        self.guest.bodies.lock().unwrap().clone()
    }
}

fn on(path: &str) -> Value {
    json!({ "path": path, "as_root": false, "user": null })
}

fn write(path: &str) -> Value {
    let given = json!({ "mode": 420, "uid": null, "gid": null });
    let mut call = on(path);
    call.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
    call
}

async fn text(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_call_goes_to_the_guest_and_its_answer_comes_back() {
    let lab = Lab::new().await;
    let response = lab.get("/etc/a%20b%FF").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["etag"], "\"1\"");
    assert!(!response.headers().contains_key("set-cookie"));
    assert_eq!(text(response).await, "hello");
    let call = lab.guest.calls.lock().unwrap().pop().unwrap();
    assert_eq!(call, json!({ "path": "/etc/a%20b%FF", "as_root": false, "user": "bunker" }));
    let headers = lab.guest.request_headers.lock().unwrap().pop().unwrap();
    assert_eq!(headers["range"], "bytes=1-");

    let head = lab.files(Method::HEAD, "/files", &on("/etc"), Body::empty()).await;
    assert_eq!(
        (head.status(), &head.headers()["content-length"]),
        (StatusCode::OK, &"5".parse().unwrap())
    );
    let root = json!({ "path": "/x", "as_root": true, "user": "7", "recursive": true });
    lab.files(Method::DELETE, "/files", &root, Body::empty()).await;
    assert_eq!(lab.guest.calls.lock().unwrap().pop().unwrap(), root);
    let moving =
        json!({ "path": "/a", "to": "/b", "overwrite": false, "as_root": false, "user": "u" });
    lab.files(Method::POST, "/files/move", &moving, Body::empty()).await;
    assert_eq!(lab.guest.calls.lock().unwrap().pop().unwrap(), moving);
}

#[tokio::test]
async fn what_is_no_call_is_refused_before_the_guest_hears_of_it() {
    let lab = Lab::new().await;
    for call in [json!({}), json!("text"), json!({ "path": "%00", "as_root": false, "user": null })]
    {
        let response = lab.files(Method::GET, "/files", &call, Body::empty()).await;
        assert_eq!(error_of(response).await.code, ErrorCode::ValidationError, "{call}");
    }
    let response = lab.call(Method::GET, "/files/stat", &[], Body::empty()).await;
    assert_eq!(error_of(response).await.code, ErrorCode::ValidationError);
    assert!(lab.guest.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_the_guest_refuses_has_a_code_of_its_own() {
    let lab = Lab::new().await;
    for (kind, code) in [
        ("not_found", ErrorCode::FileNotFound),
        ("is_a_directory", ErrorCode::IsADirectory),
        ("access_denied", ErrorCode::FileAccessDenied),
        ("no_space", ErrorCode::NoSpace),
        ("range_not_satisfiable", ErrorCode::RangeNotSatisfiable),
        ("conflict", ErrorCode::BunkerNotRunning),
        ("failed", ErrorCode::FileFailed),
    ] {
        let error = error_of(lab.get(&format!("/errors/{kind}")).await).await;
        assert_eq!((error.code, error.message.as_str()), (code, "it  says so"));
    }
    // Neither a result nor a reason.
    assert_eq!(error_of(lab.get("/odd").await).await.code, ErrorCode::FileFailed);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_stays_at_the_guest_and_ends_with_its_client() {
    let lab = Lab::new().await;
    let response = lab.get("/endless").await;
    let sent = || lab.guest.sent.load(Ordering::SeqCst);
    let mut before = u64::MAX;
    while sent() != before {
        before = sent();
        sleep(Duration::from_millis(100)).await;
    }
    assert!(before < 4 << 20, "{before}");
    drop(response);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(sent(), before);
}

#[tokio::test]
async fn a_body_arrives_whole_or_is_given_up() {
    let lab = Lab::new().await;
    let response = lab.put("/file", Body::from(vec![7; 3_000_000])).await;
    assert_eq!(text(response).await, "{\"size_bytes\":3000000}");
    assert_eq!(lab.bodies(), [Ok(3_000_000)]);

    let response = lab.put("/broken", breaking(vec![Bytes::from(vec![7; 500_000])])).await;
    assert_eq!(error_of(response).await.code, ErrorCode::FileFailed);
    until(|| lab.bodies().len() == 2).await;
    assert!(lab.bodies()[1].is_err());

    let response = lab.put("/full", Body::from(vec![7; 3_000_000])).await;
    assert_eq!(error_of(response).await.code, ErrorCode::NoSpace);
}

#[tokio::test]
async fn a_client_that_goes_while_it_sends_gives_the_call_up() {
    let lab = Lab::new().await;
    let put = lab.put("/slow", Body::from(vec![7; 50_000_000]));
    assert!(tokio::time::timeout(Duration::from_millis(100), put).await.is_err());
    until(|| lab.bodies().len() == 1).await;
    assert!(lab.bodies()[0].is_err());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_is_given_up() {
    let lab = Lab::new().await;
    let began = Instant::now();
    let response = lab.files(Method::GET, "/files/stat", &on("/stuck"), Body::empty()).await;
    assert_eq!(error_of(response).await.code, ErrorCode::FileFailed);
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_bunker_that_dies_ends_its_calls() {
    for dies in [|lab: &Lab| lab.guest.die(), |lab: &Lab| lab.supervisor.set_ended(lab.id, "gone")]
    {
        let lab = Lab::new().await;
        let mut reading = lab.get("/endless").await.into_body();
        let (began, waiting) = (Instant::now(), lab.get("/stuck"));
        let die = async {
            until(|| lab.guest.calls.lock().unwrap().len() == 2).await;
            dies(&lab);
        };
        let (response, ()) = tokio::join!(waiting, die);
        assert_eq!(error_of(response).await.code, ErrorCode::BunkerLost);
        assert!(began.elapsed() < Duration::from_secs(2));
        // The session goes with the VM.
        lab.guest.die();
        let broken = async { while reading.frame().await.unwrap().is_ok() {} };
        tokio::time::timeout(Duration::from_secs(2), broken).await.unwrap();
    }
}

#[tokio::test]
async fn so_many_calls_are_under_way_at_once() {
    let lab = Lab::new().await;
    let mut answers = Vec::new();
    for _ in 0..64 {
        answers.push(lab.get("/endless").await);
    }
    assert_eq!(error_of(lab.get("/file").await).await.code, ErrorCode::RateLimited);
    answers.pop();
    assert_eq!(lab.get("/file").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_upload_is_put_into_the_bunker() {
    let lab = Lab::new().await;
    let key = format!("files/{}/upload", lab.id);
    let path = lab.dir.path().join("objects/scaibunker").join(&key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, vec![7; 20_000_000]).unwrap();
    let response = lab.commit(&key).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(lab.bodies(), [Ok(20_000_000)]);
    assert_eq!(lab.guest.calls.lock().unwrap()[0]["mode"], 420);
    assert_eq!(lab.guest.calls.lock().unwrap()[0]["user"], "bunker");
    let missing = lab.commit(&format!("files/{}/other", lab.id)).await;
    assert_eq!(error_of(missing).await.code, ErrorCode::UploadNotFound);
    let foreign = lab.commit("files/bnk_other/upload").await;
    assert_eq!(error_of(foreign).await.code, ErrorCode::ValidationError);
}

#[tokio::test]
async fn a_download_that_breaks_leaves_no_file() {
    let broken = Router::new().fallback(async || breaking(vec![Bytes::from(vec![7; 500_000])]));
    let url = serve(broken).await;
    let lab = Lab::with_storage(tempfile::tempdir().unwrap(), &url).await;
    let response = lab.commit(&format!("files/{}/upload", lab.id)).await;
    let error = error_of(response).await;
    assert_eq!(error.code, ErrorCode::FileFailed);
    assert!(error.message.contains("storage proxy"), "{error}");
    until(|| lab.bodies().len() == 1).await;
    assert!(lab.bodies()[0].is_err());
}

//! An S3 server that is away, or does not know the credentials.

use axum::http::{Method, Request, StatusCode};
use scaibunker_api::error::ErrorCode;
use scaibunker_storage::{Objects, S3Config, StorageError, WorkerToken, router};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::{
    common::{self, S3Server},
    stage,
};

async fn is_a_clear_failure(config: S3Config) {
    let secret = config.secret_access_key.clone();
    let objects = Objects::s3(config, None).unwrap();
    let error = objects.head("files/a").await.unwrap_err();
    assert!(matches!(error, StorageError::Store { .. }));
    assert!(!format!("{error:?}").contains(&secret));

    let proxy = router(objects, WorkerToken::new(stage::TOKEN));
    for method in [Method::GET, Method::PUT] {
        let request: Request<_> = stage::request(method, "files/a", stage::TOKEN, "x");
        let answer = proxy.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let error = stage::refusal(answer).await;
        assert_eq!(error.code, ErrorCode::Internal);
        assert!(error.message.contains("object store failed"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_a_clear_failure() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    is_a_clear_failure(common::config(&format!("http://{free}"))).await;
}

#[tokio::test]
async fn wrong_credentials_are_a_clear_failure() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path()).await;
    let secret_access_key = "another-secret".to_owned();
    let config = S3Config { secret_access_key, ..common::config(&server.endpoint) };
    is_a_clear_failure(config).await;
}

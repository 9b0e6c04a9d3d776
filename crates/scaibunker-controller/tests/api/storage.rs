//! The storage proxy behind the controller's address.

use http::Method;
use http_body_util::BodyExt as _;

use crate::server::{Server, WORKER_TOKEN};

#[tokio::test]
async fn workers_store_objects_and_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.api.with_key(WORKER_TOKEN);
    let path = "/storage/output/bnk_1/log";
    let object = vec![7u8; 3 * 1024 * 1024];
    let stored = worker.call(Method::PUT, path, &[], object.clone()).await;
    assert_eq!((stored.status.as_u16(), &stored.data()["size_bytes"]), (201, &object.len().into()));
    let read = worker.send(Method::GET, path, &[], "").await;
    assert!(read.headers().contains_key("x-request-id"));
    assert_eq!(read.into_body().collect().await.unwrap().to_bytes(), object);
    assert_eq!(worker.get("/storage/output/nothing").await.error(), (404, "NOT_FOUND"));
    assert_eq!(server.api.get(path).await.error(), (401, "UNAUTHORIZED"));
    server.stop().await;
}

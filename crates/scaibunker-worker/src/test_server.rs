//! Servers on a free port for tests.

use std::path::Path;

use axum::Router;
use scaibunker_api::API_PREFIX;
use scaibunker_storage::{Objects, SigningSecret, WorkerToken};
use tokio::net::TcpListener;

/// The worker token that [`storage_proxy`] takes.
pub const TOKEN: &str = "secret";

/// Serves `routes` until the test ends; the base URL.
pub async fn serve(routes: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, routes).into_future());
    url
}

/// Serves the real storage proxy over a directory; the base URL.
pub async fn storage_proxy(dir: &Path) -> String {
    let objects = Objects::directory(dir, SigningSecret::new("signing")).unwrap();
    let routes = scaibunker_storage::router(objects, WorkerToken::new(TOKEN));
    serve(Router::new().nest(API_PREFIX, routes)).await
}

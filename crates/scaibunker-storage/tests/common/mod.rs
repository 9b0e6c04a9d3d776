//! An S3 server on a port of this machine: `s3s-fs`, which keeps objects as files, checks the
//! signature and the expiry of each request, and was written by others.

use std::path::Path;

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use scaibunker_storage::{S3Config, S3Patience};
use tokio::{net::TcpListener, task::JoinHandle};

pub const BUCKET: &str = "objects";
const ACCESS_KEY_ID: &str = "AKTEST";
const SECRET_ACCESS_KEY: &str = "a-secret-for-tests";

/// Ends when dropped.
pub struct S3Server {
    pub endpoint: String,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// Serves an empty bucket; everything the server keeps is below `root`.
    pub async fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let accepting = tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            while let Ok((socket, _)) = listener.accept().await {
                let serving = server.serve_connection(TokioIo::new(socket), service.clone());
                tokio::spawn(serving.into_owned());
            }
        });
        Self { endpoint, accepting }
    }
}

/// How the bucket of a server is used.
pub fn config(endpoint: &str) -> S3Config {
    S3Config {
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".into(),
        bucket: BUCKET.into(),
        access_key_id: ACCESS_KEY_ID.into(),
        secret_access_key: SECRET_ACCESS_KEY.into(),
        allow_http: true,
        path_style: true,
        patience: S3Patience::default(),
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

//! A controller on a free port and a directory of its own.

use std::{path::Path, time::Duration};

use scaibunker_controller::{Controller, ControllerConfig, ControllerError, RateLimits};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Api, eventually},
    sim_worker::SimWorker,
    state,
};

pub const WORKER_TOKEN: &str = "worker-secret";

pub struct Server {
    pub api: Api,
    pub base: String,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ControllerError>>,
}

pub fn config(dir: &Path) -> ControllerConfig {
    state::choose(ControllerConfig {
        drain_limit: Duration::from_millis(300),
        rate_limits: RateLimits::OFF,
        trivy: "/nonexistent/trivy".into(),
        ..ControllerConfig::new(dir.to_owned(), WORKER_TOKEN.to_owned())
    })
}

impl Server {
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(config(dir)).await
    }

    pub async fn start_with(config: ControllerConfig) -> Self {
        let key = config.data_dir.join("admin.key");
        let controller = Controller::open(config).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(controller.serve(listener, shutdown.clone()));
        let key = std::fs::read_to_string(key).unwrap().trim().to_owned();
        Self { api: Api::new(base.clone(), key), base, shutdown, serving }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }

    /// Ends it as a crash would: nothing is said to anybody.
    pub async fn kill(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }

    /// The key of a user to whom nothing is granted.
    pub async fn key_without_permissions(&self) -> String {
        let user = self.make("//v1/iam/users", &json!({ "name": "nobody" })).await;
        let key = json!({ "name": "key", "user_id": user });
        let key = self.api.post("//v1/iam/api-keys", &key).await;
        key.data()["key"].as_str().unwrap().to_owned()
    }

    /// Makes an object; its id.
    pub async fn make(&self, path: &str, body: &Value) -> String {
        self.api.post(path, body).await.data()["id"].as_str().unwrap().to_owned()
    }

    /// A worker that is linked.
    pub async fn worker(&self) -> SimWorker {
        let worker = SimWorker::new();
        self.link(&worker).await;
        worker
    }

    pub async fn link(&self, worker: &SimWorker) {
        worker.link(&self.base).await;
        let linked = eventually(async || {
            let checks = self.api.get("//health/ready").await;
            checks.data()["checks"]["linked_workers"].as_u64() > Some(0)
        });
        assert!(linked.await);
    }
}

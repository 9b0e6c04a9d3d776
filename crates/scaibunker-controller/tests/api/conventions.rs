//! What holds for every operation of the OpenAPI document.

use http::{Method, StatusCode};
use scaibunker_controller::{ControllerConfig, RateLimits};
use serde_json::Value;

use crate::{
    client::Api,
    server::{Server, config},
};

/// An operation, with a path that names objects which may exist.
struct Operation {
    method: Method,
    path: String,
    spec: Value,
}

impl Operation {
    fn needs_caller(&self) -> bool {
        self.spec["security"].as_array().is_some_and(|schemes| !schemes.is_empty())
    }

    async fn status(&self, api: &Api) -> StatusCode {
        // `//` leads to the root of the server.
        let path = format!("/{}", self.path);
        let json = [("content-type", "application/json")];
        api.send(self.method.clone(), &path, &json, r#"{"image":"busybox"}"#).await.status()
    }
}

async fn operations(server: &Server) -> Vec<Operation> {
    let document = server.api.raw(Method::GET, "//openapi.json", &[], "").await;
    let document: Value = serde_json::from_slice(document.body()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, spec) in item.as_object().unwrap() {
            let mut path = path.clone();
            for parameter in spec["parameters"].as_array().into_iter().flatten() {
                let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
                let pattern = parameter["schema"]["pattern"].as_str().unwrap_or("^x[");
                let prefix = pattern[1..].split('[').next().unwrap();
                path = path.replace(&name, &format!("{prefix}{}", "0".repeat(26)));
            }
            let method = method.to_uppercase().parse().unwrap();
            found.push(Operation { method, path, spec: spec.clone() });
        }
    }
    assert!(found.len() > 30);
    found
}

#[tokio::test]
async fn no_operation_is_open_to_strangers_unless_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let rate_limits = RateLimits { strangers: None, ..RateLimits::OFF };
    let server = Server::start_with(ControllerConfig { rate_limits, ..config(dir.path()) }).await;
    for key in ["", "sgk_wrong"] {
        let stranger = server.api.with_key(key);
        for operation in operations(&server).await {
            let status = operation.status(&stranger).await;
            let is_refused = status == StatusCode::UNAUTHORIZED;
            let what = format!("{} {}: {status}", operation.method, operation.path);
            assert_eq!(is_refused, operation.needs_caller(), "{what}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn no_operation_is_done_without_its_permission() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let nobody = server.api.with_key(&server.key_without_permissions().await);
    let mut checked = 0;
    for operation in operations(&server).await {
        if operation.spec["x-permission"].is_string() {
            let status = operation.status(&nobody).await;
            let what = format!("{} {}", operation.method, operation.path);
            assert_eq!(status, StatusCode::FORBIDDEN, "{what}");
            checked += 1;
        }
    }
    assert!(checked > 20);
    server.stop().await;
}

//! Users other than the admin, and what they may do.

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::server::{Answer, Server};

/// Somebody with a key.
pub struct Caller<'a> {
    server: &'a Server,
    key: String,
}

impl<'a> Caller<'a> {
    /// The admin of the platform.
    pub fn admin(server: &'a Server) -> Self {
        Self { server, key: server.key() }
    }

    /// A new tenant's id.
    pub async fn tenant(&self, name: &str) -> String {
        self.made("//v1/iam/tenants", json!({ "name": name })).await
    }

    /// A new user of a tenant, who may do this much.
    pub async fn user(
        &self,
        tenant: &str,
        name: &str,
        permissions: &[&str],
    ) -> (String, Caller<'a>) {
        let user = json!({ "name": name, "tenant_id": tenant, "module_permissions": permissions });
        let id = self.made("//v1/iam/users", user).await;
        let key = json!({ "name": "test", "user_id": id });
        let key = self.call(Method::POST, "//v1/iam/api-keys", Some(key)).await;
        let key = key.data()["key"].as_str().unwrap().to_owned();
        (id, Caller { server: self.server, key })
    }

    /// The id of what a POST made.
    pub async fn made(&self, path: &str, body: Value) -> String {
        let answer = self.call(Method::POST, path, Some(body)).await;
        answer.data()["id"].as_str().unwrap().to_owned()
    }

    /// A call below the module's prefix, or of a whole path that begins with `//`.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let address = match path.strip_prefix("//") {
            Some(path) => format!("{}/{path}", self.server.url),
            None => self.server.address(path),
        };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(address)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(Bytes::from(body)))
            .unwrap();
        let (head, body) = self.server.http.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer::of(http::Response::from_parts(head, body))
    }

    /// The usage that `GET /quota-profiles/usage` shows of one resource in one bucket.
    pub async fn usage(&self, bucket: &str, resource: &str) -> Value {
        let answer = self.call(Method::GET, "/quota-profiles/usage", None).await;
        let rows = answer.data().as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["bucket"] == bucket);
        row.unwrap_or_else(|| panic!("no row of {bucket}: {}", answer.json))["resources"][resource]
            .clone()
    }
}

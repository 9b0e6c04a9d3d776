//! Tenants, users and their keys, as an admin makes them.

use http::Method;
use serde_json::{Value, json};

use crate::client::Api;

/// A user and its key.
pub struct Person {
    pub id: String,
    pub api: Api,
}

/// Makes something, and answers with its id.
pub async fn make(api: &Api, path: &str, body: &Value) -> String {
    let answer = api.post(path, body).await;
    assert_eq!(answer.status, 201, "{path} {body}: {}", answer.json);
    answer.data()["id"].as_str().unwrap().to_owned()
}

pub async fn tenant(admin: &Api, name: &str) -> String {
    make(admin, "//v1/iam/tenants", &json!({ "name": name })).await
}

/// A user of `tenant` with this role and these permissions.
pub async fn person(admin: &Api, tenant: &str, role: &str, permissions: &[&str]) -> Person {
    let body = json!({
        "name": role, "tenant_id": tenant, "role": role, "module_permissions": permissions,
    });
    let id = make(admin, "//v1/iam/users", &body).await;
    let api = key_of(admin, &id).await;
    Person { id, api }
}

/// A client with a new key of the user.
pub async fn key_of(admin: &Api, user: &str) -> Api {
    let key = admin.post("//v1/iam/api-keys", &json!({ "name": "k", "user_id": user })).await;
    admin.with_key(key.data()["key"].as_str().unwrap())
}

/// Status and code of a call, `(2xx, "")` for a good one.
pub async fn outcome(api: &Api, method: &str, path: &str, body: &Value) -> (u16, String) {
    let method: Method = method.parse().unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = api.raw(method, path, &[], body).await;
    let json: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let code = json["error"]["code"].as_str().unwrap_or_default().to_owned();
    (answer.status().as_u16(), code)
}

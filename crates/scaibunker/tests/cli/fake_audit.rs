//! An audit log with five entries.

use std::{collections::BTreeMap, convert::Infallible};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream;
use scaibunker_api::ids::{EventId, RequestId, UserId};
use serde_json::{Value, json};

use crate::fake_controller::{App, page_answer};

/// Lines of an export; it is longer than any buffer on its way.
pub const EXPORTED_LINES: usize = 100_000;

/// The routes below the root.
pub fn routes() -> Router<App> {
    Router::new().route("/v1/audit-log", get(list)).route("/v1/audit-log/export", get(export))
}

async fn list(State(app): State<App>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    app.send_modify(|seen| seen.audit_queries.push(query.clone()));
    let entries: Vec<Value> = (0..5).rev().map(entry).collect();
    page_answer(&entries, &query)
}

/// The last one was refused.
fn entry(second: u8) -> Value {
    let is_refused = second == 4;
    json!({
        "id": EventId::generate(), "at": format!("2026-01-02T03:04:0{second}.000Z"),
        "request_id": RequestId::generate(),
        "actor_id": (!is_refused).then(UserId::generate), "api_key_id": null, "tenant_id": null,
        "action": "create_bunker", "resource_id": null, "ip": "192.0.2.1",
        "status": if is_refused { 401 } else { 201 },
        "error": is_refused.then_some("UNAUTHORIZED"),
    })
}

async fn export(State(app): State<App>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    app.send_modify(|seen| seen.audit_queries.push(query));
    let lines = (0..EXPORTED_LINES).map(|n| Ok::<_, Infallible>(Bytes::from(format!("{n}\n"))));
    Body::from_stream(stream::iter(lines)).into_response()
}

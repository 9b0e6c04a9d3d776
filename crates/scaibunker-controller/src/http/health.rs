//! Health, for whoever watches the process.

use std::sync::Arc;

use axum::extract::State;
use scaibunker_api::error::{ErrorBody, ErrorCode, ErrorDetail};
use schemars::JsonSchema;
use serde::Serialize;

use super::{answer::Answer, fault::Fault};
use crate::{app::App, failure::chain};

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Alive {
    /// Always `alive`.
    health: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Ready {
    /// Always `ready`.
    health: &'static str,
    checks: Checks,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Checks {
    database: &'static str,
    linked_workers: usize,
}

/// The process runs.
pub(super) async fn alive() -> Answer<Alive> {
    Answer::ok(Alive { health: "alive" })
}

/// The process can serve requests.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Answer<Ready>, Fault> {
    if app.draining.is_cancelled() {
        let message = "the server is shutting down";
        return Err(ErrorBody::new(ErrorCode::ShuttingDown, message).into());
    }
    if let Err(error) = app.store.ping().await {
        tracing::error!(error = chain(&error), "not ready");
        let detail = ErrorDetail { field: "database".to_owned(), message: error.to_string() };
        let message = "the database does not answer; the log has the cause";
        let details = vec![detail];
        return Err(ErrorBody { details, ..ErrorBody::new(ErrorCode::NotReady, message) }.into());
    }
    let checks = Checks { database: "ok", linked_workers: app.fleet.linked_workers().len() };
    Ok(Answer::ok(Ready { health: "ready", checks }))
}

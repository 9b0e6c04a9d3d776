//! Health, for whoever watches the process.

use std::{error::Error, sync::Arc};

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
    /// Always `ok`.
    database: &'static str,
    /// Always `ok`.
    ledger: &'static str,
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
        return Err(not_ready("database", &error));
    }
    if let Err(error) = app.ledger.ping().await {
        return Err(not_ready("ledger", &error));
    }
    let linked_workers = app.fleet.linked_workers().len();
    let checks = Checks { database: "ok", ledger: "ok", linked_workers };
    Ok(Answer::ok(Ready { health: "ready", checks }))
}

fn not_ready(check: &str, error: &(dyn Error + 'static)) -> Fault {
    tracing::error!(check, error = chain(error), "not ready");
    let detail = ErrorDetail { field: check.to_owned(), message: error.to_string() };
    let message = format!("the {check} does not answer; the log has the cause");
    let details = vec![detail];
    ErrorBody { details, ..ErrorBody::new(ErrorCode::NotReady, message) }.into()
}

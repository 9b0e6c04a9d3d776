//! Pausing, changing and following bunkers.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use scaibunker_api::{bunker::PatchBunker, ids::EventId};
use serde_json::{Value, json};

use crate::fake_controller::{App, answer, error};

/// The routes of the module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/bunkers/{id}/pause", post(pause))
        .route("/bunkers/{id}/resume", post(resume))
        .route("/bunkers/{id}/events", get(events))
}

async fn pause(state: State<App>, id: Path<String>) -> Response {
    change(state, id, json!({"status": "paused"}))
}

async fn resume(state: State<App>, id: Path<String>) -> Response {
    change(state, id, json!({"status": "running"}))
}

pub async fn patch(state: State<App>, id: Path<String>, Json(body): Json<PatchBunker>) -> Response {
    change(state, id, serde_json::to_value(body).unwrap())
}

fn change(State(app): State<App>, Path(id): Path<String>, changes: Value) -> Response {
    let mut changed = None;
    app.send_modify(|seen| {
        if let Some(bunker) = seen.bunkers.get_mut(&id) {
            bunker.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            changed = Some(bunker.clone());
        }
    });
    match changed {
        Some(bunker) => answer(StatusCode::OK, bunker),
        None => error(StatusCode::NOT_FOUND, "NOT_FOUND", "no such bunker"),
    }
}

/// The end of a bunker as it is told, with what this version of the program does not know; of one
/// that is called `drained`, only the beginning.
async fn events(State(app): State<App>, Path(id): Path<String>) -> Response {
    let event = |status: &str, reason: Value, second: u8| {
        let data = json!({
            "id": EventId::generate(), "status": status, "status_reason": reason,
            "at": format!("2026-01-02T03:04:0{second}.000Z"),
        });
        format!("event: status\ndata: {data}\n\n")
    };
    let done = "data: [DONE]\n\n".to_owned();
    let running = event("running", Value::Null, 1);
    if app.borrow().bunkers[&id]["name"] == "drained" {
        return ([(header::CONTENT_TYPE, "text/event-stream")], running + &done).into_response();
    }
    let body = [
        running,
        ": keep-alive\n\nevent: weather\ndata: {}\n\n".to_owned(),
        event("terminating", "idle for\u{1b} 5 min".into(), 2),
        event("terminated", Value::Null, 3),
        done,
    ];
    ([(header::CONTENT_TYPE, "text/event-stream")], body.concat()).into_response()
}

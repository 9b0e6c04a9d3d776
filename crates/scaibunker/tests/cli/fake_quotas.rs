//! Quota profiles in memory, whom they are assigned to, and a usage that never changes.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use scaibunker_api::{
    ids::{QuotaAssignmentId, QuotaProfileId},
    quota::CreateAssignment,
};
use serde_json::{Value, json};

use crate::{
    fake_controller::{App, answer, error, list_answer, page_answer},
    fake_objects,
};

const KIND: &str = "quota-profiles";

/// The routes of the module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/quota-profiles", get(list).post(create))
        .route("/quota-profiles/usage", get(usage))
        .route("/quota-profiles/{id}", get(read).patch(patch).delete(delete))
        .route("/quota-profiles/{id}/assignments", get(assignments).post(assign))
        .route("/quota-profiles/{id}/assignments/{assignment_id}", axum::routing::delete(unassign))
}

async fn list(state: State<App>, query: Query<BTreeMap<String, String>>) -> Response {
    fake_objects::list(state, Path(KIND.to_owned()), query).await
}

async fn create(state: State<App>, body: Json<Value>) -> Response {
    fake_objects::create(state, Path(KIND.to_owned()), body).await
}

async fn read(state: State<App>, Path(id): Path<String>) -> Response {
    fake_objects::read(state, Path((KIND.to_owned(), id))).await
}

async fn patch(state: State<App>, Path(id): Path<String>, body: Json<Value>) -> Response {
    fake_objects::patch(state, Path((KIND.to_owned(), id)), body).await
}

async fn delete(state: State<App>, Path(id): Path<String>) -> Response {
    fake_objects::delete(state, Path((KIND.to_owned(), id))).await
}

async fn usage() -> Response {
    let usage = |name: &str, bucket: &str, resources: Value| {
        json!({
            "profile_id": QuotaProfileId::generate(), "profile_name": name, "bucket": bucket,
            "resources": resources,
        })
    };
    let of = |current: u64, cap: Option<u64>| json!({"current": current, "cap": cap, "headroom": cap.map(|cap| cap - current)});
    list_answer(json!([
        usage(
            "team",
            "group:grp_1",
            json!({"concurrent_bunkers": of(5, Some(10)), "memory_mb": of(512, None)})
        ),
        usage("default", "user:usr_1", json!({"cpu_millicores": of(2000, Some(2000))})),
    ]))
}

async fn assignments(
    State(app): State<App>,
    Path(profile): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let seen = app.borrow();
    let of_profile = |assignment: &&Value| assignment["profile_id"] == *profile;
    let found: Vec<_> = seen.assignments.iter().filter(of_profile).cloned().collect();
    page_answer(&found, &query)
}

async fn assign(
    State(app): State<App>,
    Path(profile): Path<String>,
    Json(body): Json<CreateAssignment>,
) -> Response {
    let is_assigned = |assignment: &Value| assignment["target_id"] == *body.target_id;
    if app.borrow().assignments.iter().any(is_assigned) {
        return error(StatusCode::CONFLICT, "ALREADY_EXISTS", "it has a profile; end that first");
    }
    let default_mode = if body.target_id.starts_with("usr_") { "individual" } else { "shared" };
    let assignment = json!({
        "id": QuotaAssignmentId::generate(), "profile_id": profile,
        "target_kind": body.target_kind, "target_id": body.target_id,
        "mode": body.mode.map_or(default_mode, |mode| mode.as_str()),
        "created_at": "2026-01-02T03:04:05.678Z",
    });
    app.send_modify(|seen| seen.assignments.push(assignment.clone()));
    answer(StatusCode::CREATED, assignment)
}

async fn unassign(State(app): State<App>, Path((profile, id)): Path<(String, String)>) -> Response {
    let is_meant = |one: &Value| one["id"] == *id && one["profile_id"] == *profile;
    let is_gone = app.send_if_modified(|seen| {
        let before = seen.assignments.len();
        seen.assignments.retain(|assignment| !is_meant(assignment));
        seen.assignments.len() < before
    });
    if is_gone {
        StatusCode::NO_CONTENT.into_response()
    } else {
        error(StatusCode::NOT_FOUND, "NOT_FOUND", "no such assignment")
    }
}

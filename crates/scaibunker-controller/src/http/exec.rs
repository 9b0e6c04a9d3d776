//! `/bunkers/{id}/exec`.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use scaibunker_api::{exec::ExecRequest, ids::BunkerId};

use super::{
    answer::Answer,
    body::JsonBody,
    bunkers::{NoQuery, note},
    exec_events,
    fault::Fault,
    path::PathId,
    query::Query,
};
use crate::{app::App, domain::actor::Actor};

pub(super) async fn run(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<Response, Fault> {
    note(id);
    let is_streamed = request.stream;
    let session = app.execs.open(&actor, id, request).await?;
    if is_streamed {
        return exec_events::respond(session).await;
    }
    Ok(Answer::ok(app.execs.collect(session).await?).into_response())
}

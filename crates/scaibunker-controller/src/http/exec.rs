//! `/bunkers/{id}/exec` and `/bunkers/{id}/execs`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use scaibunker_api::{
    error::ErrorBody,
    exec::{ExecInput, ExecRecord, ExecRequest, ExecSignal},
    ids::BunkerId,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    answer::{Answer, ListAnswer},
    body::JsonBody,
    bunkers::note,
    exec_events,
    fault::Fault,
    page::{ListQuery, Page},
    path::{PathExec, PathId},
    query::{NoQuery, Query},
};
use crate::{
    app::App,
    domain::{actor::Actor, exec_record::followed},
};

const LAST_EVENT_ID: &str = "last-event-id";

pub(super) async fn run(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<Response, Fault> {
    note(id);
    if request.detach {
        let detached = app.execs.detach(&actor, id, request).await?;
        return Ok(Answer(StatusCode::ACCEPTED, detached).into_response());
    }
    let is_streamed = request.stream;
    let session = app.execs.open(&actor, id, request).await?;
    if is_streamed {
        return exec_events::respond(session, 0, followed).await;
    }
    Ok(Answer::ok(app.execs.collect(session).await?).into_response())
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<ExecRecord>, Fault> {
    note(id);
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    Ok(page.cut(app.execs.list(&actor, id).await?, |exec| exec.exec_id))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathExec(id, exec_id): PathExec,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<ExecRecord>, Fault> {
    note(id);
    Ok(Answer::ok(app.execs.show(&actor, id, exec_id).await?))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StreamQuery {
    /// Number of the first piece of output; all that there is unless given.
    from_seq: Option<u64>,
}

pub(super) async fn stream(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathExec(id, exec_id): PathExec,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    note(id);
    let from_seq = match query.from_seq {
        Some(from_seq) => from_seq,
        None => after_last_event(&headers)?,
    };
    let lead_in = exec_events::lead_in(from_seq);
    let session = app.execs.follow(&actor, id, exec_id, lead_in).await?;
    exec_events::respond(session, from_seq, |outcome| outcome).await
}

/// A browser that reconnects says which event it had last.
fn after_last_event(headers: &HeaderMap) -> Result<u64, ErrorBody> {
    let Some(last) = headers.get(LAST_EVENT_ID) else { return Ok(0) };
    let last = last.to_str().ok().and_then(|last| last.parse::<u64>().ok());
    last.and_then(|last| last.checked_add(1)).ok_or_else(|| {
        ErrorBody::invalid("Last-Event-ID", "is not the `id` of an event of this stream")
    })
}

pub(super) async fn input(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathExec(id, exec_id): PathExec,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(input): JsonBody<ExecInput>,
) -> Result<StatusCode, Fault> {
    note(id);
    app.execs.feed(&actor, id, exec_id, input).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn signal(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathExec(id, exec_id): PathExec,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(signal): JsonBody<ExecSignal>,
) -> Result<StatusCode, Fault> {
    note(id);
    app.execs.signal(&actor, id, exec_id, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn end(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathExec(id, exec_id): PathExec,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    note(id);
    app.execs.end(&actor, id, exec_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

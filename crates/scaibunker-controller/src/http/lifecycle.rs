//! `/bunkers/{id}/pause`, `/resume`, `/fork`, `/events`, `/metrics` and `/egress-audit`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use scaibunker_api::{
    bunker::{self, BunkerMetrics, ForkRequest},
    egress::EgressEvent,
    ids::BunkerId,
};

use super::{
    answer::{Answer, ListAnswer},
    body::JsonBody,
    bunkers::{CreateQuery, note},
    fault::Fault,
    idempotency::IdempotencyKey,
    page::{ListQuery, Page},
    path::PathId,
    query::{NoQuery, Query},
    sse::{self, EventSource, Events},
};
use crate::{
    app::App,
    bunkers::StatusStream,
    creation::Created,
    domain::actor::Actor,
    egress_audit::{self, EventPlace},
};

pub(super) async fn pause(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<bunker::Bunker>, Fault> {
    note(id);
    Ok(Answer::ok((&app.bunkers.pause(&actor, id).await?).into()))
}

pub(super) async fn resume(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<bunker::Bunker>, Fault> {
    note(id);
    Ok(Answer::ok((&app.bunkers.resume(&actor, id).await?).into()))
}

pub(super) async fn fork(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(query): Query<CreateQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(ForkRequest { count }): JsonBody<ForkRequest>,
) -> Result<Answer<Created<Vec<bunker::Bunker>>>, Fault> {
    note(id);
    let children = app.bunkers.fork(&actor, id, count, key, query.wait()?).await?;
    Ok(Answer(StatusCode::CREATED, children))
}

pub(super) async fn metrics(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<BunkerMetrics>, Fault> {
    note(id);
    Ok(Answer::ok(app.bunkers.metrics(&actor, id).await?))
}

pub(super) async fn egress_audit(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<EgressEvent>, Fault> {
    note(id);
    let page = Page::<EventPlace>::parse(query.limit, query.cursor.as_deref())?;
    let (after, limit) = (page.after.as_ref(), page.limit + 1);
    let events = egress_audit::events(&app.bunkers, &app.objects, &actor, id, after, limit).await?;
    let ListAnswer { data, next_cursor } = page.answer(events, |(place, _)| place.clone());
    Ok(ListAnswer { data: data.into_iter().map(|(_, event)| event).collect(), next_cursor })
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response, Fault> {
    note(id);
    let stream = app.bunkers.follow(&actor, id).await?;
    Ok(sse::respond(StatusEvents { app, stream }, Events::default()))
}

struct StatusEvents {
    app: Arc<App>,
    stream: StatusStream,
}

impl EventSource for StatusEvents {
    async fn next(&mut self, events: &mut Events) {
        let next = tokio::select! {
            next = self.app.bunkers.next_status(&mut self.stream) => next,
            // Whoever follows a bunker comes back to another process.
            () = self.app.draining.cancelled() => Ok(None),
        };
        match next {
            Ok(Some(event)) => events.add("status", None, &event),
            Ok(None) => events.end(),
            Err(failure) => events.fail(&Fault::from(failure).0),
        }
    }
}

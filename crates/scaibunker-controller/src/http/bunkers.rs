//! `/bunkers`.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use scaibunker_api::{
    bunker::{self, BunkerStatus, CreateBunker, LifecycleMode, PatchBunker},
    error::ErrorBody,
    ids::BunkerId,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    idempotency::IdempotencyKey,
    page::Page,
    path::PathId,
    query::{NoQuery, Query},
};
use crate::{
    app::App,
    bunkers::CreateAnswer,
    domain::actor::Actor,
    store::{BunkerFilter, LabelFilter},
};

const DEFAULT_WAIT_S: u64 = 60;
const MAX_WAIT_S: u64 = 600;
/// How long a delete waits for the worker before it answers `terminating`.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How long a delete waits for the last snapshot: it is not carried out without.
const LAST_SNAPSHOT_LIMIT: Duration = Duration::from_secs(600);
const MAX_LABEL_FILTERS: usize = 8;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CreateQuery {
    /// Answer once the bunker runs or has failed.
    wait: bool,
    /// How long; 60 unless given.
    #[schemars(range(min = 1, max = 600))]
    wait_timeout_s: Option<u64>,
}

impl CreateQuery {
    pub(super) fn wait(&self) -> Result<Option<Duration>, ErrorBody> {
        let seconds = self.wait_timeout_s.unwrap_or(DEFAULT_WAIT_S);
        if !(1..=MAX_WAIT_S).contains(&seconds) {
            let message = format!("must be between 1 and {MAX_WAIT_S}");
            return Err(ErrorBody::invalid("wait_timeout_s", message));
        }
        Ok(self.wait.then(|| Duration::from_secs(seconds)))
    }
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<CreateQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateBunker>,
) -> Result<Made<CreateAnswer>, Fault> {
    let answer = app.bunkers.create(&actor, request, key, query.wait()?).await?;
    Ok(Made(answer.id(), answer))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListBunkersQuery {
    /// Objects in a page; 50 unless given.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// One or several, separated by commas.
    status: Option<String>,
    lifecycle: Option<LifecycleMode>,
    /// `name` or `name=value`; several, separated by commas, must all match.
    label: Option<String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListBunkersQuery>,
) -> Result<ListAnswer<bunker::Bunker>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let filter = BunkerFilter {
        statuses: statuses(query.status.as_deref())?,
        lifecycle: query.lifecycle,
        labels: labels(query.label.as_deref())?,
        before: page.after,
    };
    let found = app.bunkers.list(&actor, &filter, page.limit + 1).await?;
    Ok(page.answer(found.iter().map(bunker::Bunker::from).collect(), |bunker| bunker.id))
}

fn statuses(list: Option<&str>) -> Result<Vec<BunkerStatus>, ErrorBody> {
    let parse = |text: &str| {
        BunkerStatus::from_text(text)
            .ok_or_else(|| ErrorBody::invalid("status", format!("there is no status {text:?}")))
    };
    list.map(|list| list.split(',').map(parse).collect()).transpose().map(Option::unwrap_or_default)
}

fn labels(list: Option<&str>) -> Result<Vec<LabelFilter>, ErrorBody> {
    let parse = |text: &str| match text.split_once('=') {
        Some((name, value)) => LabelFilter { name: name.to_owned(), value: Some(value.to_owned()) },
        None => LabelFilter { name: text.to_owned(), value: None },
    };
    let filters: Vec<_> = list.map(|list| list.split(',').map(parse).collect()).unwrap_or_default();
    if filters.len() > MAX_LABEL_FILTERS {
        let message = format!("at most {MAX_LABEL_FILTERS} labels are taken");
        return Err(ErrorBody::invalid("label", message));
    }
    Ok(filters)
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<bunker::Bunker>, Fault> {
    note(id);
    Ok(Answer::ok((&app.bunkers.get(&actor, id).await?).into()))
}

pub(super) async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchBunker>,
) -> Result<Answer<bunker::Bunker>, Fault> {
    note(id);
    Ok(Answer::ok((&app.bunkers.patch(&actor, id, patch).await?).into()))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EndQuery {
    /// Take a last snapshot first, which expires by itself; if that fails, the bunker stays.
    snapshot: bool,
}

pub(super) async fn end(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(query): Query<EndQuery>,
) -> Result<Answer<bunker::Bunker>, Fault> {
    note(id);
    if query.snapshot {
        let status = app.bunkers.get(&actor, id).await?.status();
        // Asking again is no error, and there is nothing to keep any more.
        if matches!(status, BunkerStatus::Running | BunkerStatus::Paused) {
            app.snapshots.create_last(&actor, id, LAST_SNAPSHOT_LIMIT).await?;
        }
    }
    Ok(Answer::ok((&app.bunkers.end(&actor, id, END_LIMIT).await?).into()))
}

/// Puts the bunker on the request's log lines.
pub(super) fn note(id: BunkerId) {
    tracing::Span::current().record("bunker_id", tracing::field::display(id));
}

//! `/bunkers`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use scaibunker_api::{
    bunker::{self, BunkerStatus, CreateBunker, LifecycleMode, PatchBunker},
    error::ErrorBody,
    ids::BunkerId,
};
use serde::Deserialize;

use super::{
    answer::{Answer, ListAnswer},
    body::JsonBody,
    fault::Fault,
    page::Page,
    path::PathId,
    query::Query,
};
use crate::{
    app::App,
    bunkers::CreateAnswer,
    domain::actor::Actor,
    store::{BunkerFilter, LabelFilter},
};

const IDEMPOTENCY_HEADER: &str = "idempotency-key";
const MAX_KEY_BYTES: usize = 255;
const DEFAULT_WAIT_S: u64 = 60;
const MAX_WAIT_S: u64 = 600;
/// How long a delete waits for the worker before it answers `terminating`.
const END_LIMIT: Duration = Duration::from_secs(5);
const MAX_LABEL_FILTERS: usize = 8;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CreateQuery {
    wait: bool,
    wait_timeout_s: Option<u64>,
}

impl CreateQuery {
    fn wait(&self) -> Result<Option<Duration>, ErrorBody> {
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
    headers: HeaderMap,
    JsonBody(request): JsonBody<CreateBunker>,
) -> Result<Answer<CreateAnswer>, Fault> {
    let (key, wait) = (idempotency_key(&headers)?, query.wait()?);
    let answer = app.bunkers.create(&actor, request, key, wait).await?;
    Ok(Answer(StatusCode::CREATED, answer))
}

/// The key under which a create may be repeated.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ErrorBody> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY_BYTES).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let message = format!("must be 1 to {MAX_KEY_BYTES} printable ASCII characters");
            Err(ErrorBody::invalid("Idempotency-Key", message))
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
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
    Query(query): Query<ListQuery>,
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

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NoQuery {}

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

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EndQuery {
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
        let message = "this server does not offer snapshots; delete without one";
        return Err(ErrorBody::invalid("snapshot", message).into());
    }
    Ok(Answer::ok((&app.bunkers.end(&actor, id, END_LIMIT).await?).into()))
}

/// Puts the bunker on the request's log lines.
pub(super) fn note(id: BunkerId) {
    tracing::Span::current().record("bunker_id", tracing::field::display(id));
}

//! `GET /bunkers/{id}/files-watch`: changes as server-sent events.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use scaibunker_api::{error::ErrorBody, ids::BunkerId};
use scaibunker_guest_protocol::files::FilePath;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::{
    bunkers::note,
    fault::Fault,
    path::PathId,
    query::Query,
    sse::{self, EventSource, Events},
};
use crate::{
    app::App,
    domain::{
        actor::Actor,
        file::{path_of_query, shown_change},
    },
    files::Watch,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct WatchQuery {
    /// Only that it is there: its bytes are taken from the URL, since they may be no text.
    #[serde(rename = "path")]
    #[schemars(with = "String")]
    _path: serde::de::IgnoredAny,
    #[serde(default)]
    recursive: bool,
}

pub(in crate::http) async fn watch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(query): Query<WatchQuery>,
    RawQuery(raw): RawQuery,
) -> Result<Response, Fault> {
    note(id);
    let path = path_in(raw.as_deref().unwrap_or_default())?;
    let watch = app.files.watch(&actor, id, path, query.recursive).await?;
    Ok(sse::respond(watch, Events::default()))
}

fn path_in(query: &str) -> Result<FilePath, ErrorBody> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("path="));
    let unwritten = || ErrorBody::invalid("path", "must be written as `path=…`");
    path_of_query("path", value.ok_or_else(unwritten)?)
}

impl EventSource for Watch {
    async fn next(&mut self, events: &mut Events) {
        match self.next().await {
            Ok(change) => {
                let (name, data) = shown_change(change);
                events.add(name, None, &data);
            }
            Err(error) => events.fail(&error),
        }
    }
}

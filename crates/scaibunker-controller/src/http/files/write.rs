//! `PUT` and `DELETE` of a path.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    super::{answer::Answer, fault::Fault, query::Query},
    FileTarget,
    read::Archive,
};
use crate::{
    app::App,
    domain::{actor::Actor, file::mode_of},
    files::Place,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::http) struct WriteQuery {
    /// Permission bits in octal.
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    archive: Option<Archive>,
}

pub(in crate::http) async fn write(
    State(app): State<Arc<App>>,
    actor: Actor,
    FileTarget { id, path }: FileTarget,
    Query(query): Query<WriteQuery>,
    body: Body,
) -> Result<Response, Fault> {
    let mode = query.mode.as_deref().map(mode_of).transpose()?;
    let place = Place { path, mode, uid: query.uid, gid: query.gid };
    Ok(match query.archive {
        Some(Archive::Tar) => {
            Answer::ok(app.files.unpack(&actor, id, place, body).await?).into_response()
        }
        None => {
            let entry = app.files.write(&actor, id, place, body).await?;
            Answer(StatusCode::CREATED, entry).into_response()
        }
    })
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::http) struct RemoveQuery {
    recursive: bool,
}

pub(in crate::http) async fn remove(
    State(app): State<Arc<App>>,
    actor: Actor,
    FileTarget { id, path }: FileTarget,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Fault> {
    app.files.remove(&actor, id, path, query.recursive).await?;
    Ok(StatusCode::NO_CONTENT)
}

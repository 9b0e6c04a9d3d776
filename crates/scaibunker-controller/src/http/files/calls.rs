//! Calls on files that have a JSON body.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use scaibunker_api::{
    API_PREFIX,
    error::ErrorBody,
    file::{CommitRequest, FileEntry, MkdirRequest, MoveRequest, Upload, UploadRequest},
};

use super::{
    super::{
        answer::Answer,
        body::JsonBody,
        fault::Fault,
        query::{NoQuery, Query},
    },
    FileTarget,
};
use crate::{app::App, domain::actor::Actor};

pub(in crate::http) async fn make_directory(
    State(app): State<Arc<App>>,
    actor: Actor,
    FileTarget { id, .. }: FileTarget,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(request): JsonBody<MkdirRequest>,
) -> Result<Answer<FileEntry>, Fault> {
    let entry = app.files.make_directory(&actor, id, request).await?;
    Ok(Answer(StatusCode::CREATED, entry))
}

pub(in crate::http) async fn rename(
    State(app): State<Arc<App>>,
    actor: Actor,
    FileTarget { id, .. }: FileTarget,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(request): JsonBody<MoveRequest>,
) -> Result<Answer<FileEntry>, Fault> {
    Ok(Answer::ok(app.files.rename(&actor, id, request).await?))
}

pub(in crate::http) async fn upload(
    State(app): State<Arc<App>>,
    actor: Actor,
    FileTarget { id, .. }: FileTarget,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<UploadRequest>,
) -> Result<Answer<Upload>, Fault> {
    let base_url = base_url(app.public_url.as_deref(), app.scheme, &headers)?;
    let upload = app.transfers.upload(&actor, id, request, &base_url).await?;
    Ok(Answer(StatusCode::CREATED, upload))
}

/// Where clients find the API: where the operator says, else where this one has found it.
fn base_url(
    public_url: Option<&str>,
    scheme: &str,
    headers: &HeaderMap,
) -> Result<String, ErrorBody> {
    if let Some(url) = public_url {
        return Ok(format!("{}{API_PREFIX}", url.trim_end_matches('/')));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    match host {
        Some(host) if !host.is_empty() && host.bytes().all(is_plain) => {
            Ok(format!("{scheme}://{host}{API_PREFIX}"))
        }
        _ => Err(ErrorBody::invalid("Host", "must name the server that the URL is to be for")),
    }
}

pub(in crate::http) async fn commit(
    State(app): State<Arc<App>>,
    actor: Actor,
    FileTarget { id, .. }: FileTarget,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(request): JsonBody<CommitRequest>,
) -> Result<Answer<FileEntry>, Fault> {
    Ok(Answer::ok(app.transfers.commit(&actor, id, request).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_for_where_the_api_is() {
        let host = |host: &str| HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        let base = |url, headers: &HeaderMap| base_url(url, "http", headers).unwrap();
        assert_eq!(base(None, &host("[::1]:8420")), format!("http://[::1]:8420{API_PREFIX}"));
        let public = base(Some("https://a.example/"), &host("b"));
        assert_eq!(public, format!("https://a.example{API_PREFIX}"));
        for wrong in ["", "a/b", "a?b", "a b", "u@h"] {
            assert!(base_url(None, "https", &host(wrong)).is_err(), "{wrong}");
        }
        assert!(base_url(None, "https", &HeaderMap::new()).is_err());
    }
}

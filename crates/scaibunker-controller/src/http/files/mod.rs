//! `/bunkers/{id}/files`.

mod calls;
mod read;
mod watch;
mod write;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRequestParts},
    http::request::Parts,
    routing::{MethodRouter, get, post},
};
use scaibunker_api::ids::{BunkerId, InvalidId};
use scaibunker_guest_protocol::files::FilePath;

use super::{bunkers::note, fault::Fault, path::not_found};
use crate::{app::App, domain::file::path_of_url};

/// The routes. A file may well be called `mkdir`, so the calls share their paths with files.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/bunkers/{id}/files", on_file())
        .route("/bunkers/{id}/files/", on_file())
        .route("/bunkers/{id}/files/{*path}", on_file())
        .route("/bunkers/{id}/files/mkdir", on_file().merge(post(calls::make_directory)))
        .route("/bunkers/{id}/files/move", on_file().merge(post(calls::rename)))
        .route("/bunkers/{id}/files/upload", on_file().merge(post(calls::upload)))
        .route("/bunkers/{id}/files/commit", on_file().merge(post(calls::commit)))
        .route("/bunkers/{id}/files-watch", get(watch::watch))
        // Bodies are bounded where they are read.
        .layer(DefaultBodyLimit::disable())
}

fn on_file() -> MethodRouter<Arc<App>> {
    get(read::read).put(write::write).delete(write::remove)
}

/// The bunker and the path that a URL names. The path may be any bytes, so it is taken from the
/// URL as it was sent.
pub(super) struct FileTarget {
    id: BunkerId,
    path: FilePath,
}

impl<S: Sync> FromRequestParts<S> for FileTarget {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let Some((id, rest)) = split(parts.uri.path()) else {
            return Err(not_found("the path cannot be read".to_owned()));
        };
        let id = id.parse().map_err(|error: InvalidId| not_found(error.to_string()))?;
        note(id);
        Ok(Self { id, path: path_of_url(rest)? })
    }
}

/// The id in `/bunkers/{id}/files…`, and what follows `files/`.
fn split(path: &str) -> Option<(&str, &str)> {
    let (id, rest) = path.strip_prefix("/bunkers/")?.split_once('/')?;
    let rest = rest.strip_prefix("files")?;
    Some((id, rest.strip_prefix('/').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_route_is_the_path() {
        for (path, rest) in [
            ("/bunkers/x/files", ""),
            ("/bunkers/x/files/", ""),
            ("/bunkers/x/files/a/b", "a/b"),
            ("/bunkers/x/files//a", "/a"),
            ("/bunkers/x/files/%FF/files/y", "%FF/files/y"),
        ] {
            assert_eq!(split(path), Some(("x", rest)), "{path}");
        }
        assert_eq!(split("/bunkers/x"), None);
    }
}

//! `/bunkers/{id}/files`.

mod calls;
mod read;
mod watch;
mod write;

use axum::{extract::FromRequestParts, http::request::Parts};
use scaibunker_api::{
    API_PREFIX,
    ids::{BunkerId, InvalidId},
};
use scaibunker_guest_protocol::files::FilePath;

pub(super) use self::{
    calls::{commit, make_directory, rename, upload},
    read::{ReadQuery, read},
    watch::{WatchQuery, watch},
    write::{RemoveQuery, WriteQuery, remove, write},
};
use super::{bunkers::note, fault::Fault, path::not_found};
use crate::domain::file::path_of_url;

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
    let (id, rest) = path.strip_prefix(API_PREFIX)?.strip_prefix("/bunkers/")?.split_once('/')?;
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
            let path = format!("{API_PREFIX}{path}");
            assert_eq!(split(&path), Some(("x", rest)), "{path}");
        }
        assert_eq!(split(&format!("{API_PREFIX}/bunkers/x")), None);
    }
}

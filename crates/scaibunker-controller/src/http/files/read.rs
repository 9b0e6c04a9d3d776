//! `GET` and `HEAD` of a path.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use scaibunker_api::error::ErrorBody;
use scaibunker_guest_protocol::files::{FilePath, MAX_DEPTH};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    super::{
        answer::{Answer, ListAnswer},
        fault::Fault,
        page::limit_of,
        query::Query,
    },
    FileTarget,
};
use crate::{
    app::App,
    domain::{actor::Actor, file::path_of_cursor, file_answer::disposition},
    files::ListPage,
};

/// How a directory travels in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Archive {
    Tar,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::http) struct ReadQuery {
    stat: bool,
    list: bool,
    archive: Option<Archive>,
    depth: Option<u32>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// What of a path is asked for.
#[derive(Debug, PartialEq, Eq)]
enum View {
    File,
    Stat,
    Archive,
    List { depth: u32, limit: u32, after: Option<FilePath> },
}

impl ReadQuery {
    fn view(&self) -> Result<View, ErrorBody> {
        let asked = [("stat", self.stat), ("list", self.list), ("archive", self.archive.is_some())];
        let mut asked = asked.iter().filter(|(_, is_asked)| *is_asked);
        let (first, second) = (asked.next(), asked.next());
        if let (Some((first, _)), Some((second, _))) = (first, second) {
            return Err(ErrorBody::invalid(*second, format!("must not be given with `{first}`")));
        }
        if self.list {
            return self.list_view();
        }
        for (field, is_given) in [
            ("depth", self.depth.is_some()),
            ("limit", self.limit.is_some()),
            ("cursor", self.cursor.is_some()),
        ] {
            if is_given {
                return Err(ErrorBody::invalid(field, "belongs to `list=true`"));
            }
        }
        Ok(match (self.stat, self.archive) {
            (true, _) => View::Stat,
            (false, Some(Archive::Tar)) => View::Archive,
            (false, None) => View::File,
        })
    }

    fn list_view(&self) -> Result<View, ErrorBody> {
        let depth = self.depth.unwrap_or(1);
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(ErrorBody::invalid("depth", format!("must be between 1 and {MAX_DEPTH}")));
        }
        let limit = limit_of(self.limit)? as u32;
        let after = self.cursor.as_deref().map(path_of_cursor).transpose()?;
        Ok(View::List { depth, limit, after })
    }
}

pub(in crate::http) async fn read(
    State(app): State<Arc<App>>,
    actor: Actor,
    FileTarget { id, path }: FileTarget,
    Query(query): Query<ReadQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    match query.view()? {
        View::Stat => Ok(Answer::ok(app.files.stat(&actor, id, path).await?).into_response()),
        View::List { depth, limit, after } => {
            let page = ListPage { path, depth, after, limit };
            let (data, next_cursor) = app.files.list(&actor, id, page).await?;
            Ok(ListAnswer { data, next_cursor }.into_response())
        }
        View::Archive => {
            let name = disposition(&path, ".tar");
            let body = app.files.archive(&actor, id, path).await?;
            Ok(download(Body::new(body).into_response(), "application/x-tar", name))
        }
        View::File => {
            let name = disposition(&path, "");
            let answer = app.files.read(&actor, id, path, method, &headers).await?;
            let response = (answer.status, answer.headers, Body::new(answer.body)).into_response();
            Ok(download(response, "application/octet-stream", name))
        }
    }
}

/// What a bunker's file holds is nothing for a browser to show on the API's origin.
fn download(mut response: Response, kind: &'static str, name: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_DISPOSITION, name);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn view(query: &str) -> Result<View, String> {
        let uri = format!("/?{query}").parse().unwrap();
        let query = axum::extract::Query::<ReadQuery>::try_from_uri(&uri);
        let query = query.map_err(|error| error.to_string())?;
        query.view().map_err(|error| error.details[0].field.clone())
    }

    #[test]
    fn one_thing_is_asked_for_at_a_time() {
        assert_eq!(view(""), Ok(View::File));
        assert_eq!(view("stat=true"), Ok(View::Stat));
        assert_eq!(view("archive=tar"), Ok(View::Archive));
        let list = View::List { depth: 1, limit: 50, after: None };
        assert_eq!(view("list=true"), Ok(list));
        for (query, field) in [
            ("stat=true&list=true", "list"),
            ("list=true&archive=tar", "archive"),
            ("depth=1", "depth"),
            ("stat=true&cursor=Lw", "cursor"),
            ("list=true&depth=0", "depth"),
            ("list=true&depth=65", "depth"),
            ("list=true&limit=201", "limit"),
            ("list=true&cursor=YQ", "cursor"),
        ] {
            assert_eq!(view(query), Err(field.to_owned()), "{query}");
        }
        for query in ["archive=zip", "stat=1", "lst=true"] {
            assert!(view(query).is_err(), "{query}");
        }
    }

    #[test]
    fn no_query_makes_it_panic() {
        bolero::check!().with_test_time(Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            let text: String = bytes.iter().map(|byte| char::from(byte & 0x7f)).collect();
            if let Ok(uri) =
                format!("/v1/modules/scaibunker/bunkers/x/files/{text}").parse::<http::Uri>()
            {
                let _ = axum::extract::Query::<ReadQuery>::try_from_uri(&uri)
                    .map(|query| query.view().is_ok());
                let _ = super::super::split(uri.path())
                    .map(|(_, rest)| crate::domain::file::path_of_url(rest).is_ok());
            }
        });
    }
}

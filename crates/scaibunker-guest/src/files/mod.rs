//! Calls on the bunker's files, as `guest-protocol`'s `files` describes them.

mod bulk_file;
mod delete;
mod directory;
mod download;
mod entry;
mod http_date;
mod list;
mod pack;
mod range;
mod tar_reader;
#[cfg(test)]
mod tests;
mod threads;
mod transfer;
mod tree;
mod unpack;
mod upload;
mod watch;
mod watched;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use scaibunker_guest_protocol::files::{
    CALL_HEADER, DeleteCall, FileCall, ListCall, MakeDirectoryCall, MoveCall, Rights, WatchCall,
    WriteCall,
};
use serde::{Serialize, de::DeserializeOwned};

pub use self::threads::FileThreads;
use self::{
    transfer::{BodyReader, incoming},
    tree::Tree,
};
use crate::{body::Body, error::AgentError, root::BunkerRoot};

/// The route of files themselves, and what the others begin with.
pub const ROUTE: &str = "/files";
pub const ROUTES: &str = "/files/";

/// Answers one call.
pub async fn serve(
    threads: &FileThreads,
    root: Arc<BunkerRoot>,
    request: Request<Incoming>,
) -> Result<Response<Body>, AgentError> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    match (parts.method, parts.uri.path()) {
        (method @ (Method::GET | Method::HEAD), "/files") => {
            let call = call(&headers)?;
            download::download(threads, root, method, headers, call).await
        }
        (Method::PUT, "/files") => {
            let call: WriteCall = call(&headers)?;
            receive(threads, root, call, body, upload::write).await
        }
        (Method::DELETE, "/files") => {
            let call: DeleteCall = call(&headers)?;
            let rights = call.rights.clone();
            threads.run(root, rights, move |tree| delete::delete(tree, &call)).await?;
            let mut done = Response::new(Body::whole(Bytes::new()));
            *done.status_mut() = StatusCode::NO_CONTENT;
            Ok(done)
        }
        (Method::GET, "/files/stat") => {
            let call: FileCall = call(&headers)?;
            let rights = call.rights.clone();
            answer(threads, root, rights, move |tree| tree.stat(&call.path)).await
        }
        (Method::GET, "/files/list") => {
            let call: ListCall = call(&headers)?;
            let rights = call.rights.clone();
            answer(threads, root, rights, move |tree| list::list(tree, &call)).await
        }
        (Method::POST, "/files/mkdir") => {
            let call: MakeDirectoryCall = call(&headers)?;
            let rights = call.rights.clone();
            answer(threads, root, rights, move |tree| directory::make(tree, &call)).await
        }
        (Method::POST, "/files/move") => {
            let call: MoveCall = call(&headers)?;
            let rights = call.rights.clone();
            answer(threads, root, rights, move |tree| directory::relocate(tree, &call)).await
        }
        (Method::GET, "/files/watch") => {
            let call: WatchCall = call(&headers)?;
            watch::watch(threads, root, call).await
        }
        (Method::GET, "/files/archive") => pack::download(threads, root, call(&headers)?).await,
        (Method::PUT, "/files/archive") => {
            let call: WriteCall = call(&headers)?;
            receive(threads, root, call, body, unpack::unpack).await
        }
        (method, path) => {
            Err(AgentError::Unknown(format!("the agent does not know {method} {path}")))
        }
    }
}

/// Reads what a call is about.
fn call<T: DeserializeOwned>(headers: &HeaderMap) -> Result<T, AgentError> {
    let invalid = |why: String| AgentError::Invalid(format!("the header {CALL_HEADER} {why}"));
    let value = headers.get(CALL_HEADER).ok_or_else(|| invalid("is missing".to_owned()))?;
    serde_json::from_slice(value.as_bytes())
        .map_err(|e| invalid(format!("does not hold the expected JSON: {e}")))
}

/// Does the work and answers with its result as JSON.
async fn answer<T: Serialize + Send + 'static>(
    threads: &FileThreads,
    root: Arc<BunkerRoot>,
    rights: Rights,
    work: impl FnOnce(&Tree) -> Result<T, AgentError> + Send + 'static,
) -> Result<Response<Body>, AgentError> {
    json(&threads.run(root, rights, work).await?)
}

/// Does work on a request's body and answers with its result as JSON.
async fn receive<T: Serialize + Send + 'static>(
    threads: &FileThreads,
    root: Arc<BunkerRoot>,
    call: WriteCall,
    body: Incoming,
    work: fn(&Tree, &WriteCall, &mut BodyReader) -> Result<T, AgentError>,
) -> Result<Response<Body>, AgentError> {
    let (sender, mut reader) = incoming();
    let rights = call.rights.clone();
    let done = threads.run(root, rights, move |tree| work(tree, &call, &mut reader));
    let mut done = std::pin::pin!(done);
    tokio::select! {
        // Ended before the body: nothing more of it is wanted.
        result = &mut done => return json(&result?),
        () = sender.feed(body) => {}
    }
    json(&done.await?)
}

fn json<T: Serialize>(value: &T) -> Result<Response<Body>, AgentError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| AgentError::io("answer")(std::io::Error::other(e)))?;
    let mut response = Response::new(Body::whole(bytes));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

#[cfg(test)]
mod header_tests {
    use std::time::Duration;

    use http::HeaderValue;
    use scaibunker_guest_protocol::files::MAX_PATH_BYTES;

    use super::*;

    #[test]
    fn hostile_headers_are_survived() {
        bolero::check!().with_type::<Vec<u8>>().with_test_time(Duration::from_secs(1)).for_each(
            |bytes| {
                let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
                let headers = HeaderMap::from_iter([(CALL_HEADER.parse().unwrap(), value)]);
                if let Ok(read) = call::<WriteCall>(&headers) {
                    assert!(read.path.as_bytes().len() <= MAX_PATH_BYTES);
                }
                let _ = call::<ListCall>(&headers);
            },
        );
    }

    #[test]
    fn a_call_without_its_header_is_refused() {
        assert!(call::<FileCall>(&HeaderMap::new()).is_err());
        let value = HeaderValue::from_static(r#"{"path":"/a%20b","as_root":true,"user":null}"#);
        let headers = HeaderMap::from_iter([(CALL_HEADER.parse().unwrap(), value)]);
        assert_eq!(call::<FileCall>(&headers).unwrap().path.as_bytes(), b"/a b");
    }
}

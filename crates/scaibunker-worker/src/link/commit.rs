//! Putting an object of the storage proxy into a bunker.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Method},
    response::Response,
};
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    worker::CommitFile,
};
use scaibunker_guest_protocol::files::WriteCall;
use tokio::time::timeout;

use super::{
    files::{FileRequest, read_call},
    routes::{Failure, read_json, request_id},
};
use crate::{
    chain,
    storage::{StorageClient, StorageError},
    supervisor::Supervisor,
};

/// A storage proxy that sends nothing for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn commit(
    State(supervisor): State<Arc<Supervisor>>,
    State(storage): State<Arc<StorageClient>>,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let CommitFile { key } = read_json(&body)?;
    let call: WriteCall = read_call(&headers)?;
    check_key(id, &key)?;
    supervisor.guest(id)?;
    let object = timeout(STALL_LIMIT, storage.get(&key)).await;
    let object = object.map_err(|_| unreadable("it does not answer"))?;
    let object = object.map_err(|error| match error {
        StorageError::NotFound(_) => {
            let message = format!("nothing was uploaded as `{key}`, or it was committed already");
            ErrorBody::new(ErrorCode::UploadNotFound, message)
        }
        error => unreadable(&chain(&error)),
    })?;
    let broke = Arc::new(OnceLock::new());
    let request = FileRequest {
        id,
        request_id: request_id(&headers),
        call,
        path: "/files",
        conditions: HeaderMap::new(),
    };
    let sent = request.send(&supervisor, Method::PUT, pieces(object, Arc::clone(&broke))).await;
    Ok(sent.map_err(|error| match broke.get() {
        Some(reason) => unreadable(reason),
        None => error,
    })?)
}

/// The controller checks this as well; a worker puts no other bunker's upload anywhere.
fn check_key(id: BunkerId, key: &str) -> Result<(), ErrorBody> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let name = key.strip_prefix(&format!("files/{id}/"));
    if name.is_some_and(|name| !name.is_empty() && name.bytes().all(is_plain)) {
        return Ok(());
    }
    Err(ErrorBody::invalid("key", format!("it is none of bunker {id}'s uploads")))
}

/// The object's bytes; `broke` tells why they ended early, if they do.
fn pieces(object: Incoming, broke: Arc<OnceLock<String>>) -> Body {
    Body::from_stream(stream::unfold((object, broke), async |(mut object, broke)| {
        loop {
            let reason = match timeout(STALL_LIMIT, object.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(piece))) => match piece.into_data() {
                    Ok(bytes) => return Some((Ok(bytes), (object, broke))),
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => chain(&error),
                Err(_) => "it sends nothing more".to_owned(),
            };
            // An error is the last that is read of the body.
            let _ = broke.set(reason.clone());
            return Some((Err(std::io::Error::other(reason)), (object, broke)));
        }
    }))
}

fn unreadable(reason: &str) -> ErrorBody {
    let message = format!("the upload cannot be read from the storage proxy: {reason}");
    ErrorBody::new(ErrorCode::FileFailed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bunkers_own_uploads_are_put_into_it() {
        let (id, other) = (BunkerId::generate(), BunkerId::generate());
        assert!(check_key(id, &format!("files/{id}/01-ab_c.d")).is_ok());
        for key in [
            format!("files/{other}/a"),
            format!("files/{id}/"),
            format!("files/{id}/../x"),
            format!("files/{id}/a?b"),
            format!("output/{id}/a"),
            String::new(),
        ] {
            assert!(check_key(id, &key).is_err(), "{key}");
        }
    }
}

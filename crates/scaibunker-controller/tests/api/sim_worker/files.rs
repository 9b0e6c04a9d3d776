//! The simulated worker's files: a directory behind the headers of the real protocol. Paths below
//! `/odd` have answers that no guest should give.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path as FsPath, PathBuf},
    sync::atomic::Ordering,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use scaibunker_api::{error::ErrorCode, worker::CommitFile};
use scaibunker_guest_protocol::files::{
    CALL_HEADER, Change, ChangeKind, DeleteCall, Entry, EntryType, FileCall, FilePath, ListCall,
    Listing, MoveCall, Rights, Unpacked, WatchCall, WriteCall, etag,
};
use serde::de::DeserializeOwned;

use super::{Refused, SimWorker, refusal};
use crate::{client::Api, server::WORKER_TOKEN};

type Answer = Result<Response, Refused>;

pub fn routes() -> Router<SimWorker> {
    Router::new()
        .route("/bunkers/{id}/files", get(read).put(write).delete(remove))
        .route("/bunkers/{id}/files/stat", get(stat))
        .route("/bunkers/{id}/files/list", get(list))
        .route("/bunkers/{id}/files/mkdir", post(make_directory))
        .route("/bunkers/{id}/files/move", post(rename))
        .route("/bunkers/{id}/files/watch", get(watch))
        .route("/bunkers/{id}/files/archive", put(unpack).get(archive))
        .route("/bunkers/{id}/files/commit", post(commit))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

impl SimWorker {
    fn call<C: DeserializeOwned>(&self, headers: &HeaderMap, rights: fn(&C) -> &Rights) -> C {
        let call: C = serde_json::from_slice(headers[CALL_HEADER].as_bytes()).unwrap();
        let rights = rights(&call);
        assert_eq!(rights.user, None, "the worker knows the image's user");
        self.acted_as_root.lock().unwrap().push(rights.as_root);
        call
    }

    fn place(&self, path: &FilePath) -> PathBuf {
        assert_eq!(path.as_bytes()[0], b'/', "paths are absolute");
        self.root.path().join(OsStr::from_bytes(&path.as_bytes()[1..]))
    }

    fn tell(&self, kind: ChangeKind, path: &FilePath) {
        let change = Change { kind, path: path.clone(), is_directory: false };
        let _ = self.changes.send(serde_json::to_string(&change).unwrap());
    }
}

fn failed(error: io::Error) -> Refused {
    let code = match error.kind() {
        io::ErrorKind::NotFound => ErrorCode::FileNotFound,
        io::ErrorKind::AlreadyExists => ErrorCode::FileExists,
        io::ErrorKind::NotADirectory => ErrorCode::NotADirectory,
        io::ErrorKind::IsADirectory => ErrorCode::IsADirectory,
        io::ErrorKind::DirectoryNotEmpty => ErrorCode::DirectoryNotEmpty,
        io::ErrorKind::InvalidFilename => ErrorCode::NameTooLong,
        _ => ErrorCode::FileFailed,
    };
    refusal(code, error.to_string())
}

fn entry(path: FilePath, place: &FsPath) -> Result<Entry, Refused> {
    let meta = fs::symlink_metadata(place).map_err(failed)?;
    let target = fs::read_link(place).ok();
    Ok(Entry {
        path,
        kind: match meta.file_type() {
            kind if kind.is_dir() => EntryType::Directory,
            kind if kind.is_symlink() => EntryType::Symlink,
            _ => EntryType::File,
        },
        size_bytes: meta.len(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        modified_s: meta.mtime(),
        modified_ns: meta.mtime_nsec() as u32,
        symlink_target: target.map(|t| FilePath::new(t.as_os_str().as_bytes()).unwrap()),
    })
}

async fn read(State(worker): State<SimWorker>, method: Method, headers: HeaderMap) -> Answer {
    let FileCall { path, .. } = worker.call(&headers, |call: &FileCall| &call.rights);
    if let Some(odd) = path.as_bytes().strip_prefix(b"/odd/") {
        return Ok(odd_answer(&worker, odd));
    }
    let place = worker.place(&path);
    let meta = fs::metadata(&place).map_err(failed)?;
    if meta.is_dir() {
        return Err(refusal(ErrorCode::IsADirectory, "a directory"));
    }
    let content = fs::read(&place).map_err(failed)?;
    let tag = etag(meta.mtime(), meta.mtime_nsec() as u32, meta.len(), meta.ino());
    let described = [
        (header::ETAG, tag.clone()),
        (header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == tag) {
        return Ok((StatusCode::NOT_MODIFIED, described).into_response());
    }
    let is_fresh = headers.get(header::IF_RANGE).is_none_or(|known| *known == tag);
    let range = headers.get(header::RANGE).filter(|_| is_fresh && method == Method::GET);
    let Some(range) = range else {
        return Ok((described, content).into_response());
    };
    let (first, last) = range.to_str().unwrap()["bytes=".len()..].split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(usize::MAX).min(content.len().saturating_sub(1));
    if first >= content.len() {
        return Err(refusal(ErrorCode::RangeNotSatisfiable, "behind the end"));
    }
    let part = format!("bytes {first}-{last}/{}", content.len());
    let body = content[first..=last].to_vec();
    Ok((StatusCode::PARTIAL_CONTENT, described, [(header::CONTENT_RANGE, part)], body)
        .into_response())
}

fn odd_answer(worker: &SimWorker, name: &[u8]) -> Response {
    match name {
        b"tag" => ([(header::ETAG, "no tag")], "x").into_response(),
        b"range" => (StatusCode::PARTIAL_CONTENT, "x").into_response(),
        b"type" => {
            let headers = [(header::CONTENT_TYPE, "text/html"), (header::SET_COOKIE, "a=b")];
            (headers, "<script>").into_response()
        }
        b"endless" => {
            let piece = Bytes::from(vec![7; 64 * 1024]);
            let worker = worker.clone();
            let pieces = stream::repeat(piece).map(move |piece| {
                worker.given_pieces.fetch_add(1, Ordering::Relaxed);
                Ok::<_, io::Error>(piece)
            });
            Body::from_stream(pieces).into_response()
        }
        b"broken" => {
            let worker = worker.clone();
            let rest = stream::once(async move {
                worker.file_breaks.notified().await;
                Err(io::Error::other("died"))
            });
            Body::from_stream(stream::iter([Ok(Bytes::from("half"))]).chain(rest)).into_response()
        }
        _ => StatusCode::IM_A_TEAPOT.into_response(),
    }
}

async fn received(worker: &SimWorker, body: Body) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            worker.broken_puts.fetch_add(1, Ordering::Relaxed);
            return Err(refusal(ErrorCode::BadRequest, "the body broke off"));
        };
        worker.put_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn write(State(worker): State<SimWorker>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let call = worker.call(&parts.headers, |call: &WriteCall| &call.rights);
    if call.path.as_bytes() == b"/odd/stall" {
        std::future::pending::<()>().await;
    }
    if call.path.as_bytes().starts_with(b"/proc/") {
        return Err(refusal(ErrorCode::ReadOnlyPath, "this file system takes no files"));
    }
    let bytes = received(&worker, body).await?;
    place_file(&worker, call, &bytes)
}

fn place_file(worker: &SimWorker, call: WriteCall, bytes: &[u8]) -> Answer {
    use std::os::unix::fs::PermissionsExt as _;
    let place = worker.place(&call.path);
    fs::create_dir_all(place.parent().unwrap()).map_err(failed)?;
    fs::write(&place, bytes).map_err(failed)?;
    let mode = fs::Permissions::from_mode(call.mode.unwrap_or(0o644));
    fs::set_permissions(&place, mode).map_err(failed)?;
    worker.tell(ChangeKind::Created, &call.path);
    Ok(Json(entry(call.path, &place)?).into_response())
}

async fn remove(State(worker): State<SimWorker>, headers: HeaderMap) -> Answer {
    let call = worker.call(&headers, |call: &DeleteCall| &call.rights);
    let place = worker.place(&call.path);
    let meta = fs::symlink_metadata(&place).map_err(failed)?;
    match (meta.is_dir(), call.recursive) {
        (false, _) => fs::remove_file(&place),
        (true, false) => fs::remove_dir(&place),
        (true, true) => fs::remove_dir_all(&place),
    }
    .map_err(failed)?;
    worker.tell(ChangeKind::Deleted, &call.path);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn stat(State(worker): State<SimWorker>, headers: HeaderMap) -> Answer {
    let FileCall { path, .. } = worker.call(&headers, |call: &FileCall| &call.rights);
    if path.as_bytes() == b"/odd/stat" {
        return Ok("no JSON".into_response());
    }
    let place = worker.place(&path);
    Ok(Json(entry(path, &place)?).into_response())
}

async fn list(State(worker): State<SimWorker>, headers: HeaderMap) -> Answer {
    let call = worker.call(&headers, |call: &ListCall| &call.rights);
    let root = worker.place(&call.path);
    if !fs::metadata(&root).map_err(failed)?.is_dir() {
        return Err(refusal(ErrorCode::NotADirectory, "no directory"));
    }
    let mut found = Vec::new();
    gather(&root, call.depth, &mut found);
    let start = call.path.as_bytes().trim_suffix_slash();
    let mut entries = Vec::new();
    for place in found {
        let below = place.strip_prefix(&root).unwrap();
        let path = [start, b"/", below.as_os_str().as_bytes()].concat();
        let path = FilePath::new(path).unwrap();
        let components = |path: &FilePath| -> Vec<Vec<u8>> {
            path.as_bytes().split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
        };
        if call.after.as_ref().is_none_or(|after| components(&path) > components(after)) {
            entries.push(entry(path, &place)?);
        }
    }
    let has_more = entries.len() > call.limit as usize;
    entries.truncate(call.limit as usize);
    Ok(Json(Listing { entries, has_more }).into_response())
}

trait TrimSlash {
    fn trim_suffix_slash(&self) -> &[u8];
}

impl TrimSlash for [u8] {
    fn trim_suffix_slash(&self) -> &[u8] {
        self.strip_suffix(b"/").unwrap_or(self)
    }
}

fn gather(dir: &FsPath, depth: u32, found: &mut Vec<PathBuf>) {
    let mut places: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    places.sort();
    for place in places {
        let is_dir = fs::symlink_metadata(&place).unwrap().is_dir();
        found.push(place.clone());
        if is_dir && depth > 1 {
            gather(&place, depth - 1, found);
        }
    }
}

async fn make_directory(State(worker): State<SimWorker>, headers: HeaderMap) -> Answer {
    let call = worker.call(&headers, |call: &WriteCall| &call.rights);
    let place = worker.place(&call.path);
    fs::create_dir_all(&place).map_err(failed)?;
    Ok(Json(entry(call.path, &place)?).into_response())
}

async fn rename(State(worker): State<SimWorker>, headers: HeaderMap) -> Answer {
    let call = worker.call(&headers, |call: &MoveCall| &call.rights);
    let (from, to) = (worker.place(&call.path), worker.place(&call.to));
    if to.exists() && !call.overwrite {
        return Err(refusal(ErrorCode::FileExists, "there is one already"));
    }
    fs::rename(&from, &to).map_err(failed)?;
    Ok(Json(entry(call.to, &to)?).into_response())
}

async fn watch(State(worker): State<SimWorker>, headers: HeaderMap) -> Answer {
    let call = worker.call(&headers, |call: &WatchCall| &call.rights);
    fs::metadata(worker.place(&call.path)).map_err(failed)?;
    let changes = worker.changes.subscribe();
    let first = Change { kind: ChangeKind::Watching, path: call.path, is_directory: true };
    let first = serde_json::to_string(&first).unwrap();
    let later =
        stream::unfold(changes, async |mut changes| Some((changes.recv().await.ok()?, changes)));
    let lines = stream::iter([first]).chain(later);
    // A stop of the watching, as when the bunker dies.
    let lines = lines.take_while(|line| std::future::ready(!line.is_empty()));
    Ok(Body::from_stream(lines.map(|line| Ok::<_, io::Error>(format!("{line}\n")))).into_response())
}

impl SimWorker {
    /// Ends everything that is watched.
    pub fn end_watches(&self) {
        let _ = self.changes.send(String::new());
    }
}

async fn archive(State(worker): State<SimWorker>, headers: HeaderMap) -> Answer {
    let FileCall { path, .. } = worker.call(&headers, |call: &FileCall| &call.rights);
    let place = worker.place(&path);
    if !fs::metadata(&place).map_err(failed)?.is_dir() {
        return Err(refusal(ErrorCode::NotADirectory, "no directory"));
    }
    Ok(format!("tar of {path:?}").into_response())
}

async fn unpack(State(worker): State<SimWorker>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    worker.call(&parts.headers, |call: &WriteCall| &call.rights);
    let bytes = received(&worker, body).await?.len() as u64;
    Ok(Json(Unpacked { entries: 1, bytes }).into_response())
}

async fn commit(State(worker): State<SimWorker>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let call = worker.call(&parts.headers, |call: &WriteCall| &call.rights);
    let body = body.collect().await.unwrap().to_bytes();
    let CommitFile { key } = serde_json::from_slice(&body).unwrap();
    let base = worker.base.lock().unwrap().clone();
    let proxy = Api::new(base, WORKER_TOKEN.to_owned());
    let object = proxy.send(Method::GET, &format!("/storage/{key}"), &[], "").await;
    assert_eq!(object.status(), StatusCode::OK);
    let bytes = object.into_body().collect().await.unwrap().to_bytes();
    place_file(&worker, call, &bytes)
}

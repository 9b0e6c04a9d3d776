//! Files of the fake controller's bunkers: a map of paths, the same for all bunkers.
//!
//! A path that holds `denied` may not be touched; one that holds `cut` breaks off when it is read,
//! and one that holds `stuck` never ends.

use std::{collections::BTreeMap, io::Read as _, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use scaibunker_api::file::MAX_PUT_BYTES;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fake_controller::{Seen, answer, error, list_answer};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File(Vec<u8>, u32),
    Directory,
    Link(String),
}

type App = Arc<watch::Sender<Seen>>;
type QueryMap = Query<BTreeMap<String, String>>;

/// A bunker with a home, a file and a link to the home.
pub fn tree() -> BTreeMap<String, Node> {
    let file = |text: &str, mode| Node::File(text.as_bytes().to_vec(), mode);
    BTreeMap::from([
        ("/".to_owned(), Node::Directory),
        ("/home".to_owned(), Node::Directory),
        ("/home/sub".to_owned(), Node::Directory),
        ("/home/sub/deep".to_owned(), file("deep\n", 0o640)),
        ("/home/tool".to_owned(), file("tool\n", 0o755)),
        ("/home/link".to_owned(), Node::Link("tool".to_owned())),
        ("/way".to_owned(), Node::Link("/home".to_owned())),
        ("/home/cut".to_owned(), file("half of it", 0o644)),
    ])
}

/// The decoded path behind `/files`.
fn path_of(uri: &Uri) -> String {
    let encoded = uri.path().split_once("/files").unwrap().1;
    let mut bytes = Vec::new();
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            plain => plain,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn follow<'a>(files: &'a BTreeMap<String, Node>, path: &'a str) -> Option<(&'a str, &'a Node)> {
    match files.get(path)? {
        Node::Link(target) if target.starts_with('/') => Some((target, files.get(target)?)),
        Node::Link(target) => {
            let parent = path.rsplit_once('/').unwrap().0;
            files.get_key_value(&format!("{parent}/{target}")).map(|(k, v)| (k.as_str(), v))
        }
        node => Some((path, node)),
    }
}

fn entry(path: &str, node: &Node) -> Value {
    let (kind, size, mode, target) = match node {
        Node::File(bytes, mode) => ("file", bytes.len(), *mode, None),
        Node::Directory => ("directory", 0, 0o755, None),
        Node::Link(target) => ("symlink", target.len(), 0o777, Some(target)),
    };
    json!({
        "path": path, "type": kind, "size_bytes": size, "mode": format!("{mode:04o}"), "uid": 1000,
        "gid": 1000, "modified_at": "2026-01-02T03:04:05.678Z", "symlink_target": target,
    })
}

fn not_found(path: &str) -> Response {
    let message = format!("{path} does not exist; make it first");
    error(StatusCode::NOT_FOUND, "FILE_NOT_FOUND", &message)
}

fn denied() -> Response {
    let message = "the bunker's user may not do this; use a key with scaibunker:root";
    error(StatusCode::FORBIDDEN, "FILE_ACCESS_DENIED", message)
}

pub async fn get(State(app): State<App>, Query(query): QueryMap, uri: Uri) -> Response {
    let (path, files) = (path_of(&uri), app.borrow().files.clone());
    if path.contains("denied") {
        return denied();
    }
    let Some(node) = files.get(&path) else { return not_found(&path) };
    if query.contains_key("stat") {
        return answer(StatusCode::OK, entry(&path, node));
    }
    let Some((real, node)) = follow(&files, &path) else { return not_found(&path) };
    if query.contains_key("list") {
        if *node != Node::Directory {
            return error(StatusCode::BAD_REQUEST, "NOT_A_DIRECTORY", "it is a file");
        }
        let below = format!("{}/", real.trim_end_matches('/'));
        let inside = files.iter().filter(|(path, _)| {
            path.strip_prefix(&below).is_some_and(|name| !name.is_empty() && !name.contains('/'))
        });
        return list_answer(inside.map(|(path, node)| entry(path, node)).collect());
    }
    match node {
        Node::Directory if query.contains_key("archive") => tar_of(&files, real).into_response(),
        Node::Directory => error(StatusCode::BAD_REQUEST, "IS_A_DIRECTORY", "it is a directory"),
        Node::File(bytes, _) if path.contains("cut") || path.contains("stuck") => {
            let pieces = stream::iter([Ok(Bytes::from(bytes.clone()))]);
            let is_stuck = path.contains("stuck");
            let rest = stream::once(async move {
                if is_stuck {
                    std::future::pending::<()>().await;
                }
                Err(std::io::Error::other("gone"))
            });
            let length = [(header::CONTENT_LENGTH, (bytes.len() + 1000).to_string())];
            (length, Body::from_stream(pieces.chain(rest))).into_response()
        }
        Node::File(bytes, _) => bytes.clone().into_response(),
        Node::Link(_) => not_found(&path),
    }
}

fn tar_of(files: &BTreeMap<String, Node>, directory: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, node) in files {
        let Some(name) = path.strip_prefix(&format!("{directory}/")) else { continue };
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        match node {
            Node::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                tar.append_data(&mut header, name, std::io::empty()).unwrap();
            }
            Node::File(bytes, mode) => {
                header.set_size(bytes.len() as u64);
                header.set_mode(*mode);
                tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
            }
            Node::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

pub async fn put(
    State(app): State<App>,
    Query(query): QueryMap,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = path_of(&uri);
    app.send_modify(|seen| seen.puts.push(path.clone()));
    if path.contains("denied") {
        return denied();
    }
    if query.contains_key("archive") {
        assert!(!headers.contains_key(header::CONTENT_LENGTH), "a tar's size is not known before");
        return unpack(&app, &path, &body);
    }
    assert_eq!(headers[header::CONTENT_LENGTH], body.len().to_string());
    if body.len() as u64 > MAX_PUT_BYTES {
        let message = "larger than 10 MiB; use files/upload and files/commit";
        return error(StatusCode::PAYLOAD_TOO_LARGE, "FILE_TOO_LARGE", message);
    }
    let mode = query.get("mode").map_or(0o644, |mode| u32::from_str_radix(mode, 8).unwrap());
    let node = Node::File(body.to_vec(), mode);
    let made = entry(&path, &node);
    app.send_modify(|seen| _ = seen.files.insert(path, node));
    answer(StatusCode::CREATED, made)
}

fn unpack(app: &App, path: &str, tar: &[u8]) -> Response {
    let (mut entries, mut bytes) = (0, 0);
    let mut archive = tar::Archive::new(tar);
    app.send_modify(|seen| _ = seen.files.insert(path.to_owned(), Node::Directory));
    for file in archive.entries().unwrap() {
        let mut file = file.unwrap();
        let name = format!("{path}/{}", file.path().unwrap().display());
        let name = name.trim_end_matches('/').to_owned();
        let node = match file.header().entry_type() {
            tar::EntryType::Directory => Node::Directory,
            tar::EntryType::Symlink => {
                Node::Link(file.link_name().unwrap().unwrap().display().to_string())
            }
            _ => {
                let mut content = Vec::new();
                bytes += file.read_to_end(&mut content).unwrap();
                Node::File(content, file.header().mode().unwrap())
            }
        };
        entries += 1;
        assert!(file.header().uid().is_err(), "an owner of this machine is none in a bunker");
        app.send_modify(|seen| _ = seen.files.insert(name, node));
    }
    answer(StatusCode::OK, json!({ "entries": entries, "bytes": bytes }))
}

/// The routes that are no path.
pub async fn post(
    State(app): State<App>,
    Path((bunker, call)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    match call.as_str() {
        "upload" => {
            let host = headers[header::HOST].to_str().unwrap();
            let key = format!("files/{bunker}/{}", app.borrow().uploads.len());
            let url = format!("http://{host}/signed/{key}?signature=s");
            app.send_modify(|seen| seen.uploads.push(body));
            let upload = json!({
                "url": url, "method": "PUT", "headers": {"x-signed": "yes"}, "key": key,
                "expires_at": "2030-01-02T03:04:05.678Z",
            });
            answer(StatusCode::OK, upload)
        }
        "commit" => {
            app.send_modify(|seen| seen.commits.push(body.clone()));
            let Some(content) = app.borrow().objects.get(body["key"].as_str().unwrap()).cloned()
            else {
                let message = "nothing was uploaded";
                return error(StatusCode::NOT_FOUND, "UPLOAD_NOT_FOUND", message);
            };
            let path = body["dest_path"].as_str().unwrap().to_owned();
            let mode = body["mode"].as_str().unwrap_or("0644");
            let node = Node::File(content, u32::from_str_radix(mode, 8).unwrap());
            let made = entry(&path, &node);
            app.send_modify(|seen| _ = seen.files.insert(path, node));
            answer(StatusCode::OK, made)
        }
        "mkdir" => {
            let path = body["path"].as_str().unwrap().to_owned();
            let made = entry(&path, &Node::Directory);
            app.send_modify(|seen| _ = seen.files.insert(path, Node::Directory));
            answer(StatusCode::CREATED, made)
        }
        "move" => {
            let (from, to) = (body["from"].as_str().unwrap(), body["to"].as_str().unwrap());
            let files = app.borrow().files.clone();
            let Some(node) = files.get(from) else { return not_found(from) };
            if files.contains_key(to) && body["overwrite"] != true {
                return error(StatusCode::CONFLICT, "FILE_EXISTS", "give `overwrite`");
            }
            app.send_modify(|seen| {
                seen.files.remove(from);
                seen.files.insert(to.to_owned(), node.clone());
            });
            answer(StatusCode::OK, entry(to, node))
        }
        _ => error(StatusCode::NOT_FOUND, "NOT_FOUND", "no such route"),
    }
}

pub async fn delete(State(app): State<App>, Query(query): QueryMap, uri: Uri) -> Response {
    let path = path_of(&uri);
    let below = format!("{path}/");
    let is_empty = !app.borrow().files.keys().any(|other| other.starts_with(&below));
    if !is_empty && !query.contains_key("recursive") {
        return error(StatusCode::CONFLICT, "DIRECTORY_NOT_EMPTY", "give `recursive`");
    }
    app.send_modify(|seen| {
        seen.files.retain(|other, _| *other != path && !other.starts_with(&below));
    });
    StatusCode::NO_CONTENT.into_response()
}

/// The object store behind the signed URL.
pub async fn put_signed(
    State(app): State<App>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if app.borrow().store_is_full {
        return (StatusCode::SERVICE_UNAVAILABLE, "the store is full").into_response();
    }
    assert!(!headers.contains_key(header::AUTHORIZATION), "the URL is the credential");
    assert_eq!(headers["x-signed"], "yes");
    assert_eq!(headers[header::CONTENT_LENGTH], body.len().to_string());
    app.send_modify(|seen| _ = seen.objects.insert(key, body.to_vec()));
    StatusCode::CREATED.into_response()
}

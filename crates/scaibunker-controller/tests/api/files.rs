//! Files of a bunker.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use scaibunker_api::API_PREFIX;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client::{Answer, Api, eventually, settled},
    events::Stream,
    server::Server,
    sim_worker::SimWorker,
};

/// A bunker and calls on its files.
struct Files {
    _dir: tempfile::TempDir,
    server: Server,
    worker: SimWorker,
    api: Api,
    id: String,
}

impl Files {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path()).await;
        let worker = server.worker().await;
        let api = server.api.clone();
        let id = api.running_bunker().await;
        Self { _dir: dir, server, worker, api, id }
    }

    fn path(&self, path: &str) -> String {
        format!("/bunkers/{}/files{path}", self.id)
    }

    async fn get(&self, path: &str) -> Answer {
        self.api.get(&self.path(path)).await
    }

    async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, HeaderMap, Bytes) {
        let answer = self.api.raw(method, &self.path(path), headers, "").await;
        let (parts, body) = answer.into_parts();
        (parts.status.as_u16(), parts.headers, body)
    }

    async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.api.call(Method::PUT, &self.path(path), &[], body).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.api.delete(&self.path(path)).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.api.post(&self.path(path), &body).await
    }

    /// A body that is sent as it is given.
    fn upload(
        &self,
        path: &str,
    ) -> (tokio::sync::mpsc::Sender<Bytes>, impl Future<Output = Answer> + use<>) {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        let pieces = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), |bytes| {
            Ok::<_, std::convert::Infallible>(Frame::data(bytes))
        });
        let request =
            http::Request::put(format!("{}{API_PREFIX}{}", self.api.base, self.path(path)))
                .header("authorization", format!("Bearer {}", self.api.key))
                .body(StreamBody::new(pieces))
                .unwrap();
        let answer = async move {
            let client = Client::builder(TokioExecutor::new()).build_http();
            let (parts, body) = client.request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let json = serde_json::from_slice(&body).unwrap();
            Answer { status: parts.status, headers: parts.headers, json }
        };
        (sender, answer)
    }
}

#[tokio::test]
async fn a_file_is_written_read_moved_and_removed() {
    let files = Files::open().await;
    let made = files.put("/a/hello.txt?mode=0600&uid=7&gid=8", "hello").await;
    assert_eq!(made.status, 201, "{}", made.json);
    let mut entry = made.data().clone();
    assert!(entry["modified_at"].as_str().unwrap().ends_with('Z'));
    for field in ["modified_at", "uid", "gid"] {
        entry[field] = Value::Null;
    }
    assert_eq!(
        entry,
        json!({
            "path": "/a/hello.txt", "type": "file", "size_bytes": 5, "mode": "0600", "uid": null,
            "gid": null, "modified_at": null, "symlink_target": null,
        })
    );
    assert_eq!(files.get("//a/hello.txt?stat=true").await.data(), made.data());

    let (status, headers, body) = files.raw(Method::GET, "/a/hello.txt", &[]).await;
    assert_eq!((status, &body[..]), (200, &b"hello"[..]));
    for (name, value) in [
        ("content-length", "5"),
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("content-disposition", "attachment; filename=\"hello.txt\"; filename*=UTF-8''hello.txt"),
    ] {
        assert_eq!(headers[name], value);
    }
    let tag = headers["etag"].to_str().unwrap();
    let (status, headers, body) =
        files.raw(Method::GET, "/a/hello.txt", &[("range", "bytes=1-3"), ("if-range", tag)]).await;
    assert_eq!(
        (status, &body[..], &headers["content-length"]),
        (206, &b"ell"[..], &"3".parse().unwrap())
    );
    assert_eq!(headers["content-range"], "bytes 1-3/5");
    let old = [("range", "bytes=1-3"), ("if-range", "\"old\"")];
    assert_eq!(files.raw(Method::GET, "/a/hello.txt", &old).await.0, 200);
    let (status, headers, body) =
        files.raw(Method::GET, "/a/hello.txt", &[("if-none-match", tag)]).await;
    assert_eq!((status, &headers["etag"], body.len()), (304, &tag.parse().unwrap(), 0));
    let behind = files
        .api
        .call(Method::GET, &files.path("/a/hello.txt"), &[("range", "bytes=5-")], "")
        .await;
    assert_eq!(behind.error(), (416, "RANGE_NOT_SATISFIABLE"));
    let (status, headers, body) = files.raw(Method::HEAD, "/a/hello.txt", &[]).await;
    assert_eq!((status, &headers["content-length"], body.len()), (200, &"5".parse().unwrap(), 0));

    let to = json!({ "from": "/a/hello.txt", "to": "b" });
    assert_eq!(files.post("/move", to.clone()).await.data()["path"], "/b");
    files.put("/a/hello.txt", "other").await;
    assert_eq!(files.post("/move", to).await.error(), (409, "FILE_EXISTS"));
    let over = json!({ "from": "/a/hello.txt", "to": "/b", "overwrite": true });
    assert_eq!(files.post("/move", over).await.status, 200);
    assert_eq!(files.raw(Method::GET, "/b", &[]).await.2, "other");
    let made = files.post("/mkdir", json!({ "path": "/c/d", "mode": "0700" })).await;
    assert_eq!((made.status.as_u16(), &made.data()["type"]), (201, &json!("directory")));
    assert_eq!(files.delete("/c").await.error(), (409, "DIRECTORY_NOT_EMPTY"));
    for path in ["/c?recursive=true", "/b"] {
        files.api.done(Method::DELETE, &files.path(path), &json!({})).await;
    }
    assert_eq!(files.delete("/b").await.error(), (404, "FILE_NOT_FOUND"));
    assert!(
        files.api.get(&format!("/bunkers/{}", files.id)).await.data()["last_active_at"].is_string()
    );
    assert!(files.worker.acted_as_root.lock().unwrap().iter().all(|as_root| *as_root));
    files.server.stop().await;
}

#[tokio::test]
async fn any_name_is_reached_by_its_bytes() {
    let files = Files::open().await;
    let names = [
        ("with%20space", "with space", None),
        ("new%0Aline", "new\nline", None),
        ("a+b", "a+b", None),
        ("%25percent%3F", "%percent?", None),
        ("%C3%BC", "ü", None),
        ("%FF%feraw", "\u{fffd}\u{fffd}raw", Some("/%FF%FEraw")),
    ];
    for (url, shown, encoded) in names {
        let made = files.put(&format!("/{url}"), "x").await;
        let expected = (&json!(format!("/{shown}")), &json!(encoded));
        let path_encoded = made.data().get("path_encoded").unwrap_or(&Value::Null);
        assert_eq!((&made.data()["path"], path_encoded), expected);
        assert_eq!(files.raw(Method::GET, &format!("/{url}"), &[]).await.2, "x", "{url}");
    }
    let listed = files.get("/?list=true").await;
    assert_eq!(listed.data().as_array().unwrap().len(), names.len());
    assert_eq!(files.get("?list=true").await.data(), listed.data(), "no slash");
    // Calls share their paths with files of the same name.
    for name in ["mkdir", "move", "upload", "commit"] {
        assert_eq!(files.put(&format!("/{name}"), name).await.status, 201);
        assert_eq!(files.raw(Method::GET, &format!("/{name}"), &[]).await.2, name);
    }
    assert_eq!(files.put("/a%00b", "x").await.fields(), ["path"]);
    assert_eq!(files.put("/a%zz", "x").await.fields(), ["path"]);
    assert_eq!(
        files.put(&format!("/{}", "n".repeat(4096)), "x").await.error(),
        (400, "NAME_TOO_LONG")
    );
    assert_eq!(
        files.put(&format!("/{}", "n".repeat(256)), "x").await.error(),
        (400, "NAME_TOO_LONG")
    );
    let long = format!("/{}", "\u{fc}".repeat(2000));
    let both = files.post("/move", json!({ "from": long, "to": long })).await;
    assert_eq!(both.error(), (400, "NAME_TOO_LONG"));
    assert_eq!(files.post("/other", json!({})).await.error(), (405, "METHOD_NOT_ALLOWED"));
    files.server.stop().await;
}

#[tokio::test]
async fn a_directory_is_listed_by_page_and_depth() {
    let files = Files::open().await;
    for path in ["/d/a/1", "/d/a/2", "/d/b", "/d/%FF/x", "/d/c"] {
        files.put(path, "x").await;
    }
    let names = async |query: &str| -> Vec<String> {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = files.get(&format!("/d?list=true&{query}{cursor}")).await;
            let entries = page.data().as_array().unwrap().iter();
            seen.extend(entries.map(|entry| {
                let exact = entry.get("path_encoded").unwrap_or(&entry["path"]);
                exact.as_str().unwrap().to_owned()
            }));
            match page.json["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return seen,
            }
        }
    };
    let own = ["/d/a", "/d/b", "/d/c", "/d/%FF"];
    assert_eq!(names("").await, own);
    assert_eq!(names("limit=1").await, own);
    let all = ["/d/a", "/d/a/1", "/d/a/2", "/d/b", "/d/c", "/d/%FF", "/d/%FF/x"];
    for query in ["depth=2", "depth=64&limit=3", "depth=2&limit=1"] {
        assert_eq!(names(query).await, all, "{query}");
    }
    let page = files.get("/d?list=true&limit=2").await;
    assert_eq!(page.json["has_more"], true);
    for (query, field) in [
        ("list=true&stat=true", "list"),
        ("list=true&archive=tar", "archive"),
        ("depth=2", "depth"),
        ("list=true&depth=0", "depth"),
        ("list=true&limit=1000", "limit"),
        ("list=true&cursor=%21", "cursor"),
        ("lsit=true", "lsit"),
        ("archive=zip", "archive"),
        ("list=maybe", "list"),
    ] {
        let refused = files.get(&format!("/d?{query}")).await;
        let said = (refused.error(), refused.fields());
        assert_eq!(said, ((422, "VALIDATION_ERROR"), vec![field]), "{query}");
    }
    let directory = files.get("/d").await;
    assert_eq!(directory.error(), (400, "IS_A_DIRECTORY"));
    let message = directory.json["error"]["message"].as_str().unwrap();
    assert!(message.contains("?list=true") && message.contains("?archive=tar"), "{message}");
    assert_eq!(files.get("/d/b?list=true").await.error(), (400, "NOT_A_DIRECTORY"));
    files.server.stop().await;
}

#[tokio::test]
async fn a_directory_travels_as_tar() {
    let files = Files::open().await;
    files.post("/mkdir", json!({ "path": "/d" })).await;
    let (status, headers, body) = files.raw(Method::GET, "/d?archive=tar", &[]).await;
    assert_eq!((status, &body[..]), (200, &b"tar of \"/d\""[..]));
    assert_eq!(headers["content-type"], "application/x-tar");
    assert!(headers["content-disposition"].to_str().unwrap().contains("\"d.tar\""));
    // Larger than a file may be in one call.
    let body = vec![1; 11 * 1024 * 1024];
    let unpacked = files.put("/d?archive=tar", body).await;
    assert_eq!(
        (unpacked.status.as_u16(), unpacked.data()),
        (200, &json!({ "entries": 1, "bytes": 11 << 20 }))
    );
    assert_eq!(files.get("/no?archive=tar").await.error(), (404, "FILE_NOT_FOUND"));
    files.server.stop().await;
}

#[tokio::test]
async fn a_file_that_is_too_large_changes_nothing_and_says_what_to_do() {
    let files = Files::open().await;
    let most = vec![1; 10 * 1024 * 1024];
    assert_eq!(files.put("/most", most).await.data()["size_bytes"], 10 << 20);
    files.put("/kept", "old").await;
    let check = |answer: &Answer| {
        assert_eq!(answer.error(), (413, "FILE_TOO_LARGE"));
        let message = answer.json["error"]["message"].as_str().unwrap();
        for call in ["10 MiB", "POST /bunkers/{id}/files/upload", "POST /bunkers/{id}/files/commit"]
        {
            assert!(message.contains(call), "{message}");
        }
    };
    let before = files.worker.put_bytes.load(Ordering::Relaxed);
    check(&files.put("/kept", vec![1; 10 * 1024 * 1024 + 1]).await);
    assert_eq!(files.worker.put_bytes.load(Ordering::Relaxed), before, "told by its length");

    let (sender, answer) = files.upload("/kept");
    let answer = tokio::spawn(answer);
    for _ in 0..11 {
        if sender.send(Bytes::from(vec![1; 1024 * 1024])).await.is_err() {
            break;
        }
    }
    check(&answer.await.unwrap());
    drop(sender);
    assert!(eventually(async || files.worker.broken_puts.load(Ordering::Relaxed) == 1).await);
    assert_eq!(files.raw(Method::GET, "/kept", &[]).await.2, "old");
    files.server.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_is_told_as_well() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let files = Files::open().await;
    let address = files.api.base.trim_start_matches("http://");
    let (path, key) = (format!("{API_PREFIX}{}", files.path("/x")), &files.api.key);
    let body = vec![1; 30 * 1024 * 1024];
    let chunked = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    let length = format!("content-length: {}", body.len());
    for (framing, body) in [(length.as_str(), body), ("transfer-encoding: chunked", chunked)] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n\
             connection: close\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 413") && answer.contains("FILE_TOO_LARGE"),
            "{answer}"
        );
    }
    files.server.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_breaks_the_body_off() {
    let files = Files::open().await;
    files.put("/kept", "old").await;
    let (sender, answer) = files.upload("/kept");
    let answer = tokio::spawn(answer);
    let before = files.worker.put_bytes.load(Ordering::Relaxed);
    sender.send(Bytes::from_static(b"new")).await.unwrap();
    assert!(eventually(async || files.worker.put_bytes.load(Ordering::Relaxed) > before).await);
    answer.abort();
    assert!(eventually(async || files.worker.broken_puts.load(Ordering::Relaxed) == 1).await);
    assert_eq!(files.raw(Method::GET, "/kept", &[]).await.2, "old");
    files.server.stop().await;
}

#[tokio::test]
async fn bodies_move_as_fast_as_their_reader() {
    let files = Files::open().await;
    let (sender, answer) = files.upload("/odd/stall");
    let answer = tokio::spawn(answer);
    let mut taken = 0;
    let flood = async {
        while sender.send(Bytes::from(vec![1; 64 * 1024])).await.is_ok() {
            taken += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err());
    assert!(taken < 150, "{taken} pieces of 64 KiB were taken for a guest that reads none");
    answer.abort();

    let path = files.path("/odd/endless");
    let mut response = files.api.send(Method::GET, &path, &[], "").await;
    response.body_mut().frame().await.unwrap().unwrap();
    let given = async || files.worker.given_pieces.load(Ordering::Relaxed);
    let stopped_at = settled(given).await;
    assert!(stopped_at < 400, "{stopped_at} pieces of 64 KiB were taken from nobody's reading");
    while given().await < stopped_at + 20 {
        response.body_mut().frame().await.unwrap().unwrap();
    }
    drop(response);
    let stopped_at = settled(given).await;
    assert_eq!(settled(given).await, stopped_at);
    files.server.stop().await;
}

#[tokio::test]
async fn what_a_guest_says_about_a_file_is_checked() {
    let files = Files::open().await;
    for path in ["/odd/tag", "/odd/range", "/odd/stat?stat=true"] {
        assert_eq!(files.get(path).await.error(), (502, "FILE_FAILED"), "{path}");
    }
    assert_eq!(files.get("/odd/else").await.error(), (502, "BUNKER_LOST"));
    let (_, headers, _) = files.raw(Method::GET, "/odd/type", &[]).await;
    assert_eq!(headers["content-type"], "application/octet-stream");
    assert!(!headers.contains_key("set-cookie"));
    let broken = files.api.send(Method::GET, &files.path("/odd/broken"), &[], "").await;
    assert_eq!(broken.status(), StatusCode::OK);
    files.worker.file_breaks.notify_one();
    assert!(broken.into_body().collect().await.is_err(), "half a file is not taken for a whole");
    let missing = files.raw(Method::HEAD, "/nothing", &[]).await;
    assert_eq!(missing.0, 404, "though the answer to a HEAD says nothing");
    assert_eq!(files.raw(Method::HEAD, "/", &[]).await.0, 400);
    files.server.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let files = Files::open().await;
    for (path, field) in [
        ("/x?mode=0o644", "mode"),
        ("/x?mode=77777", "mode"),
        ("/x?uid=-1", "uid"),
        ("/x?gid=many", "gid"),
        ("/x?stat=true", "stat"),
        ("/x?archive=zip", "archive"),
    ] {
        let refused = files.put(path, "x").await;
        assert_eq!((refused.error(), refused.fields()), ((422, "VALIDATION_ERROR"), vec![field]));
    }
    for (call, body, field) in [
        ("/mkdir", json!({}), "path"),
        ("/mkdir", json!({ "path": "" }), "path"),
        ("/mkdir", json!({ "path": "a\0b" }), "path"),
        ("/mkdir", json!({ "path": "a", "mode": "rwx" }), "mode"),
        ("/move", json!({ "from": "a" }), "to"),
        ("/move", json!({ "from": "", "to": "b" }), "from"),
        ("/commit", json!({ "key": "a" }), "dest_path"),
        ("/commit", json!({ "key": "a", "dest_path": "" }), "dest_path"),
        ("/upload", json!({ "size": 1 }), "size"),
    ] {
        assert_eq!(files.post(call, body).await.fields(), [field], "{call}");
    }
    assert_eq!(files.delete("/x?force=true").await.fields(), ["force"]);
    assert_eq!(files.put("/proc/x", "x").await.error(), (409, "READ_ONLY_PATH"));

    let stranger = files.api.with_key("sgk_wrong");
    let body = Bytes::from(vec![0; 1024]);
    let refused = stranger.call(Method::PUT, &files.path("/x"), &[], body).await;
    assert_eq!(refused.error(), (401, "UNAUTHORIZED"));
    assert_eq!(files.api.get("/bunkers/bnk_x/files/a").await.error(), (404, "NOT_FOUND"));
    files.api.delete(&format!("/bunkers/{}", files.id)).await;
    let ended = (409, "BUNKER_NOT_RUNNING");
    assert_eq!(files.get("/x").await.error(), ended);
    assert_eq!(files.put("/x", "x").await.error(), ended);
    assert_eq!(files.post("/upload", json!({})).await.error(), ended);
    let watch = format!("/bunkers/{}/files-watch?path=/", files.id);
    assert_eq!(files.api.get(&watch).await.error(), ended);
    files.server.stop().await;
}

#[tokio::test]
async fn changes_are_told_as_they_happen() {
    let files = Files::open().await;
    let watch = format!("/bunkers/{}/files-watch", files.id);
    let open = async |query: &str| {
        Stream::new(files.api.send(Method::GET, &format!("{watch}?{query}"), &[], "").await)
    };
    let mut changes = open("path=%2F&recursive=true").await;
    let first = changes.next().await.unwrap();
    assert_eq!(
        (first.name.as_str(), &first.data),
        ("watching", &json!({ "path": "/", "is_directory": true }))
    );
    files.put("/%FF", "x").await;
    let created = changes.next().await.unwrap();
    assert_eq!(
        (created.name.as_str(), &created.data),
        ("created", &json!({ "path": "/\u{fffd}", "path_encoded": "/%FF", "is_directory": false }))
    );
    files.worker.end_watches();
    let lost = changes.next().await.unwrap();
    assert_eq!((lost.name.as_str(), &lost.data["code"]), ("error", &json!("BUNKER_LOST")));
    assert_eq!(changes.next().await, None);

    for (query, error, field) in [
        ("", (422, "VALIDATION_ERROR"), vec!["path"]),
        ("path=/&path=/a", (422, "VALIDATION_ERROR"), vec!["path"]),
        ("p%61th=/", (422, "VALIDATION_ERROR"), vec!["path"]),
        ("path=/&depth=1", (422, "VALIDATION_ERROR"), vec!["depth"]),
        ("path=/a%00", (422, "VALIDATION_ERROR"), vec!["path"]),
        ("path=/nothing", (404, "FILE_NOT_FOUND"), vec![]),
    ] {
        let refused = files.api.get(&format!("{watch}?{query}")).await;
        assert_eq!((refused.error(), refused.fields()), (error, field), "{query}");
    }
    let mut changes = open("path=/%FF").await;
    assert_eq!(changes.next().await.unwrap().data["path_encoded"], "/%FF");
    files.server.stop().await;
    let ended = changes.next().await.unwrap();
    assert_eq!((ended.name.as_str(), &ended.data["code"]), ("error", &json!("SHUTTING_DOWN")));
    assert_eq!(changes.next().await, None);
}

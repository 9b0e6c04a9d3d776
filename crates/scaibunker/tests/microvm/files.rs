//! Files of a bunker, with curl and with whatever a path can hold.

use http::Method;
use serde_json::{Value, json};

use crate::server::{Answer, Server, eventually};

/// A bunker and calls on its files.
struct Files {
    server: Server,
    id: String,
}

impl Files {
    async fn open() -> Self {
        let server = Server::start();
        let id = server.bunker().await;
        Self { server, id }
    }

    fn path(&self, path: &str) -> String {
        format!("/bunkers/{}/files{path}", self.id)
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.server.fetch(Method::GET, &self.path(path), &[], "").await)
    }

    async fn put(&self, path: &str, body: &'static [u8]) -> Answer {
        Answer::of(self.server.fetch(Method::PUT, &self.path(path), &[], body).await)
    }

    async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.server.fetch(Method::DELETE, &self.path(path), &[], "").await)
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.server.call(Method::POST, &self.path(path), Some(body)).await
    }

    async fn sh(&self, line: &str) -> String {
        self.server.sh(&self.id, line).await["stdout"].as_str().unwrap().to_owned()
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let listed = self.get(path).await;
        let entries = listed.data().as_array().unwrap();
        entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_written_read_listed_moved_and_deleted() {
    let files = Files::open().await;
    let made = files.put("/data/a/b/hello.txt?mode=0600", b"hello").await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.json);
    assert_eq!((&made.data()["mode"], &made.data()["size_bytes"]), (&json!("0600"), &json!(5)));
    assert_eq!(files.sh("cat /data/a/b/hello.txt").await, "hello");
    // What the API makes is the image's user's, as what its commands make.
    let owner = files.sh("stat -c %U /data/a /data/a/b /data/a/b/hello.txt").await;
    assert_eq!(owner, "bunker\nbunker\nbunker\n");

    let whole = files.server.fetch(Method::GET, &files.path("/data/a/b/hello.txt"), &[], "").await;
    assert_eq!(&whole.body()[..], b"hello");
    let etag = whole.headers()["etag"].to_str().unwrap();
    let conditions = [("range", "bytes=1-3"), ("if-none-match", etag), ("range", "bytes=9-")];
    for ((name, value), (status, body)) in
        conditions.into_iter().zip([(206, &b"ell"[..]), (304, b""), (416, b"")])
    {
        let path = files.path("/data/a/b/hello.txt");
        let part = files.server.fetch(Method::GET, &path, &[(name, value)], "").await;
        assert_eq!(part.status().as_u16(), status, "{name}: {value}");
        assert!(status == 416 || part.body() == body, "{name}: {value}");
    }
    let head = files.server.fetch(Method::HEAD, &files.path("/data/a/b/hello.txt"), &[], "").await;
    assert_eq!(head.headers()["content-length"], "5");
    assert!(head.body().is_empty());

    assert_eq!(files.get("/data/a/b").await.error(), (400, "IS_A_DIRECTORY"));
    assert_eq!(files.get("/data/a/b?stat=true").await.data()["type"], "directory");
    assert_eq!(
        files.post("/mkdir", json!({ "path": "/data/a/c" })).await.data()["type"],
        "directory"
    );
    let all = ["/data/a/b", "/data/a/b/hello.txt", "/data/a/c"];
    assert_eq!(files.names("/data/a?list=true&depth=2").await, all);
    let first = files.get("/data/a?list=true&depth=2&limit=2").await;
    assert_eq!(first.json["has_more"], true, "{}", first.json);
    let cursor = first.json["next_cursor"].as_str().unwrap();
    assert_eq!(
        files.names(&format!("/data/a?list=true&depth=2&limit=2&cursor={cursor}")).await,
        all[2..]
    );

    let to = json!({ "from": "/data/a/b/hello.txt", "to": "/data/a/c/moved" });
    assert_eq!(files.post("/move", to.clone()).await.data()["path"], "/data/a/c/moved");
    assert_eq!(files.post("/move", to).await.error(), (404, "FILE_NOT_FOUND"));
    assert_eq!(files.delete("/data/a").await.error(), (409, "DIRECTORY_NOT_EMPTY"));
    assert!(files.delete("/data/a?recursive=true").await.status.is_success());
    assert_eq!(files.get("/data/a?stat=true").await.error(), (404, "FILE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_odd_places_have_defined_answers() {
    let files = Files::open().await;
    for name in ["/tmp/with%20space", "/tmp/new%0Aline", "/tmp/%FF%FEraw", "/tmp/%25percent+plus"] {
        assert_eq!(files.put(name, b"x").await.status.as_u16(), 201, "{name}");
        let read = files.server.fetch(Method::GET, &files.path(name), &[], "").await;
        assert_eq!(&read.body()[..], b"x", "{name}");
    }
    let raw = files.get("/tmp?list=true").await;
    let encoded: Vec<_> =
        raw.data().as_array().unwrap().iter().filter_map(|e| e["path_encoded"].as_str()).collect();
    assert_eq!(encoded, ["/tmp/%FF%FEraw"], "{}", raw.json);
    assert_eq!(
        files.sh("ls /tmp | wc -l").await.trim(),
        "4",
        "a name is one line, as `ls` shows it"
    );

    files.sh("ln -s loop2 /tmp/loop1; ln -s loop1 /tmp/loop2; ln -s /etc/hostname /tmp/link").await;
    assert_eq!(files.get("/tmp/loop1").await.error(), (400, "SYMLINK_LOOP"));
    assert_eq!(files.get("/tmp/loop1?stat=true").await.data()["symlink_target"], "loop2");
    let through = files.server.fetch(Method::GET, &files.path("/tmp/link"), &[], "").await;
    assert!(through.body().starts_with(b"bnk-"), "{through:?}");
    // Neither the controller nor the worker resolves anything: this is the bunker's file.
    let up =
        files.server.fetch(Method::GET, &files.path("/tmp/%2e%2e/etc/hostname"), &[], "").await;
    assert!(up.body().starts_with(b"bnk-"), "{up:?}");

    assert_eq!(files.get("/dev/zero").await.error(), (400, "NOT_A_REGULAR_FILE"));
    files.sh("mkfifo /tmp/fifo").await;
    assert_eq!(files.get("/tmp/fifo").await.error(), (400, "NOT_A_REGULAR_FILE"));
    let uptime = files.server.fetch(Method::GET, &files.path("/proc/uptime"), &[], "").await;
    assert!(uptime.status().is_success() && uptime.body().ends_with(b"\n"), "{uptime:?}");
    let proc = files.put("/proc/nothing-here", b"x").await;
    assert!(proc.status.is_client_error(), "{}", proc.json);
    assert_eq!(files.put("/etc", b"x").await.error(), (400, "IS_A_DIRECTORY"));
    assert_eq!(files.put("/etc/hostname/x", b"x").await.error(), (400, "NOT_A_DIRECTORY"));
    let long = format!("/tmp/{}", "n".repeat(300));
    assert_eq!(files.put(&long, b"x").await.error(), (400, "NAME_TOO_LONG"));
    assert_eq!(files.put("/tmp/a%00b", b"x").await.error(), (422, "VALIDATION_ERROR"));

    files.sh("mkdir /tmp/ro && mount -t tmpfs -o ro none /tmp/ro").await;
    assert_eq!(files.put("/tmp/ro/x", b"x").await.error(), (409, "READ_ONLY_PATH"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_the_old_file() {
    let files = Files::open().await;
    assert_eq!(files.put("/data/kept", b"old").await.status.as_u16(), 201);
    files.sh("dd if=/dev/zero of=/data/filler bs=1M 2>/dev/null; dd if=/dev/zero of=/data/rest bs=4k").await;
    let body = bytes::Bytes::from(vec![b'n'; 8 * 1024 * 1024]);
    let full = files.server.fetch(Method::PUT, &files.path("/data/kept"), &[], body).await;
    assert_eq!(Answer::of(full).error(), (507, "NO_SPACE"));
    assert_eq!(files.sh("cat /data/kept").await, "old");
    assert_eq!(files.names("/data?list=true").await, ["/data/filler", "/data/kept", "/data/rest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_travels_as_tar_both_ways() {
    let files = Files::open().await;
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/data"), vec![7; 300_000]).unwrap();
    std::os::unix::fs::symlink("sub/data", tree.join("link")).unwrap();
    let tar = |arguments: &[&str]| {
        let mut command = std::process::Command::new("tar");
        assert!(command.args(arguments).current_dir(dir.path()).status().unwrap().success());
    };
    tar(&["-cf", "up.tar", "-C", "tree", "."]);
    let sent = files
        .server
        .curl()
        .arg("--upload-file")
        .arg(dir.path().join("up.tar"))
        .arg(files.server.address(&files.path("/data/tree?archive=tar")))
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert!(answer["data"]["entries"].as_u64() >= Some(3), "{answer}");
    assert_eq!(
        files.sh("readlink /data/tree/link; stat -Lc %s /data/tree/link").await,
        "sub/data\n300000\n"
    );

    let back = files
        .server
        .curl()
        .arg("--output")
        .arg(dir.path().join("down.tar"))
        .arg(files.server.address(&files.path("/data/tree?archive=tar")))
        .status()
        .unwrap();
    assert!(back.success());
    std::fs::create_dir(dir.path().join("down")).unwrap();
    tar(&["-xf", "down.tar", "-C", "down"]);
    let compared = std::process::Command::new("diff")
        .args(["-r", "--no-dereference", "tree", "down"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(compared.status.success(), "{compared:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_they_happen() {
    let files = Files::open().await;
    files.sh("mkdir /data").await;
    let path = format!("/bunkers/{}/files-watch?path=/data", files.id);
    let mut answer = files.server.send(Method::GET, &path, &[], "").await;
    let mut seen = String::new();
    let mut read_until = async |text: &str| {
        while !seen.contains(text) {
            let piece = http_body_util::BodyExt::frame(answer.body_mut()).await.unwrap().unwrap();
            seen.push_str(std::str::from_utf8(piece.data_ref().unwrap()).unwrap());
        }
    };
    read_until("event: watching").await;
    files.sh("echo x > /data/new; rm /data/new").await;
    read_until("event: deleted").await;
    assert!(seen.contains("event: created") && seen.contains("/data/new"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_changes_nothing() {
    let files = Files::open().await;
    assert_eq!(files.put("/data/f", b"old").await.status.as_u16(), 201);
    let target = files.server.address(&files.path("/data/f"));
    let request = format!(
        "PUT {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000\r\n\r\nhalf",
        target
            .split_once("://")
            .unwrap()
            .1
            .split_once('/')
            .map(|(_, path)| format!("/{path}"))
            .unwrap(),
        files.server.key(),
    );
    let address = files.server.url.strip_prefix("http://").unwrap().to_owned();
    let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut peer, request.as_bytes()).await.unwrap();
    eventually("the half is on its way", async || files.names("/data?list=true").await.len() == 2)
        .await;
    drop(peer);
    eventually("nothing of it is left", async || {
        files.names("/data?list=true").await == ["/data/f"]
    })
    .await;
    assert_eq!(files.sh("cat /data/f").await, "old");
}

//! `scaibunker proxy`: the storage proxy alone, with what others have signed and minted.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustix::process::Signal;
use scaibunker_api::storage::CapabilityMethod::{Get, Put};
use scaibunker_storage::{Objects, SigningSecret};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Child,
};

use crate::program::{ended, finish, program, send, start};

const API: &str = "/v1/modules/scaibunker";
const TOKEN: &str = "worker-secret";
const SECRET: &str = "capability-secret";
const HOUR: Duration = Duration::from_secs(3600);
const KEY: &str = "images/uploads/ten_1/root.tar";

struct Proxy {
    process: Child,
    url: String,
}

impl Proxy {
    /// The proxy of a directory, with these variables set.
    async fn start(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let dir = dir.to_str().unwrap();
        let mut command = program(&["--data-dir", dir, "proxy", "--listen", "127.0.0.1:0"]);
        let mut process =
            start(command.env("SCAIBUNKER_LOG", "off").envs(variables.iter().copied()));
        let mut line = String::new();
        let stderr = process.stderr.as_mut().unwrap();
        BufReader::new(stderr).read_line(&mut line).await.unwrap();
        let url = line.trim().strip_prefix("ready at ").unwrap_or_else(|| panic!("{line}"));
        Self { url: format!("{url}{API}"), process }
    }

    async fn put(&self, key: &str, token: &str) -> StatusCode {
        let url = format!("{}/storage/{key}", self.url);
        send_request(Method::PUT, &url, Some(token), "object").await.0
    }
}

async fn send_request(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: &'static str,
) -> (StatusCode, Bytes) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = Request::builder().method(method).uri(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
    (answer.status(), answer.into_body().collect().await.unwrap().to_bytes())
}

/// Where a controller signs and mints, with a directory of its own.
fn controller(dir: &Path, secret: &str) -> Objects {
    Objects::directory(&dir.join("controller"), SigningSecret::new(secret)).unwrap()
}

#[tokio::test]
async fn the_proxy_alone_accepts_what_the_controller_has_signed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let variables = [
        ("SCAIBUNKER_WORKER_TOKEN", TOKEN),
        ("SCAIBUNKER_CAPABILITY_SECRET", SECRET),
        ("SCAIBUNKER_CAPABILITY_SECRET_PREVIOUS", "before"),
    ];
    let proxy = Proxy::start(&data, &variables).await;
    for path in ["/health", "/health/ready"] {
        let (status, _) =
            send_request(Method::GET, &format!("{}{path}", proxy.url), None, "").await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    for (secret, status) in [
        (SECRET, StatusCode::CREATED),
        ("before", StatusCode::CREATED),
        ("another", StatusCode::UNAUTHORIZED),
    ] {
        let objects = controller(dir.path(), secret);
        let signed = objects.presign_put("files/bnk_1/a", HOUR, None, &proxy.url).await.unwrap();
        assert_eq!(send_request(Method::PUT, &signed.url, None, "x").await.0, status, "{secret}");
        let token =
            objects.mint_capability("images/uploads/ten_1/", &[Put, Get], 60).unwrap().token;
        assert_eq!(proxy.put(KEY, &token).await, status, "{secret}");
    }
    assert_eq!(proxy.put(KEY, TOKEN).await, StatusCode::CREATED);
    assert_eq!(proxy.put(KEY, "another").await, StatusCode::UNAUTHORIZED);
    let stored = std::fs::read(data.join("objects/scaibunker").join(KEY)).unwrap();
    assert_eq!(stored, b"object");

    send(&proxy.process, Signal::TERM);
    assert_eq!(finish(proxy.process).await.code, 0);
}

#[tokio::test]
async fn what_was_accepted_outlives_a_kill_and_nothing_half_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let variables = [("SCAIBUNKER_WORKER_TOKEN", TOKEN)];
    let mut proxy = Proxy::start(dir.path(), &variables).await;
    assert_eq!(proxy.put(KEY, TOKEN).await, StatusCode::CREATED);
    let address = proxy.url.strip_prefix("http://").unwrap().strip_suffix(API).unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PUT {API}/storage/{KEY} HTTP/1.1\r\nhost: proxy\r\nauthorization: Bearer {TOKEN}\r\n\
         content-length: 9000000\r\n\r\n"
    );
    half.write_all(head.as_bytes()).await.unwrap();
    half.write_all(&vec![7; 4_000_000]).await.unwrap();
    let objects = dir.path().join("objects/scaibunker/images/uploads/ten_1");
    let waiting = async {
        while std::fs::read_dir(&objects).unwrap().count() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    proxy.process.kill().await.unwrap();

    let proxy = Proxy::start(dir.path(), &variables).await;
    let url = format!("{}/storage/{KEY}", proxy.url);
    let (status, body) = send_request(Method::GET, &url, Some(TOKEN), "").await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, b"object".as_slice()));
    let objects = Objects::directory(&dir.path().join("objects"), None).unwrap();
    assert_eq!(objects.remove_uploads_older_than(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(objects.head(KEY).await.unwrap(), Some(6));
}

#[tokio::test]
async fn without_the_secret_the_proxy_alone_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &[("SCAIBUNKER_WORKER_TOKEN", TOKEN)]).await;
    let objects = controller(dir.path(), SECRET);
    let token = objects.mint_capability("images", &[Get], 60).unwrap().token;
    let signed = objects.presign_put("files/bnk_1/a", HOUR, None, &proxy.url).await.unwrap().url;
    let object = format!("{}/storage/{KEY}", proxy.url);
    for (method, url, token) in
        [(Method::GET, object, Some(token.as_str())), (Method::PUT, signed, None)]
    {
        let (status, body) = send_request(method, &url, token, "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let said = String::from_utf8(body.to_vec()).unwrap();
        let expected =
            "scaibunker_capability_secret must be set on the proxy as well as the controller";
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn the_proxy_alone_makes_no_secrets_but_finds_those_of_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let refused = ended(&mut program(&["--data-dir", data, "proxy"])).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("set SCAIBUNKER_WORKER_TOKEN"), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    std::fs::write(dir.path().join("worker.token"), format!("{TOKEN}\n")).unwrap();
    std::fs::write(dir.path().join("capability.secret"), format!("{SECRET}\n")).unwrap();
    let proxy = Proxy::start(dir.path(), &[]).await;
    let token = controller(dir.path(), SECRET).mint_capability("images", &[Put], 60).unwrap().token;
    assert_eq!(proxy.put(KEY, TOKEN).await, StatusCode::CREATED);
    assert_eq!(proxy.put(KEY, &token).await, StatusCode::CREATED);
}

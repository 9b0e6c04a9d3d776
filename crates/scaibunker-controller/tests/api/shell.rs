//! Shells over WebSockets.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use scaibunker_api::{API_PREFIX, ids::ExecId};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::Response},
};

use crate::{
    client::{Api, eventually, settled},
    server::Server,
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client, and what it has read so far.
struct Shell {
    socket: Socket,
    text: String,
}

async fn connect(
    api: &Api,
    id: &str,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Socket, Response<Option<Vec<u8>>>), Error> {
    let base = api.base.replace("http://", "ws://");
    let address = format!("{base}{API_PREFIX}/bunkers/{id}/shell?{query}");
    let mut request = address.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    connect_async(request).await
}

impl Shell {
    async fn open(api: &Api, id: &str, query: &str) -> Self {
        let key = format!("Bearer {}", api.key);
        let (socket, _) = connect(api, id, query, &[("authorization", &key)]).await.unwrap();
        Self { socket, text: String::new() }
    }

    async fn message(&mut self) -> Message {
        let next = async {
            loop {
                match self.socket.next().await.unwrap().unwrap() {
                    Message::Ping(_) | Message::Pong(_) => {}
                    message => return message,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.unwrap()
    }

    async fn ready(&mut self) -> String {
        let Message::Text(text) = self.message().await else { panic!("`ready` comes first") };
        let ready: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(ready["type"], "ready");
        ready["shell_id"].as_str().unwrap().to_owned()
    }

    async fn until(&mut self, words: &str) {
        while !self.text.contains(words) {
            let Message::Binary(bytes) = self.message().await else { panic!("{}", self.text) };
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    async fn send(&mut self, text: &str) {
        self.socket.send(Message::binary(text.as_bytes().to_vec())).await.unwrap();
    }

    async fn control(&mut self, control: Value) {
        self.socket.send(Message::text(control.to_string())).await.unwrap();
    }

    /// The last words, and the code of the close that follows.
    async fn end(&mut self) -> (Value, u16) {
        loop {
            match self.message().await {
                Message::Text(text) => {
                    let Message::Close(Some(close)) = self.message().await else {
                        panic!("a close follows {text}")
                    };
                    return (serde_json::from_str(&text).unwrap(), close.code.into());
                }
                Message::Close(Some(close)) => return (Value::Null, close.code.into()),
                _ => {}
            }
        }
    }
}

/// The status and code of a refusal.
async fn refused(
    api: &Api,
    id: &str,
    query: &str,
    headers: &[(&'static str, &str)],
) -> (u16, String) {
    let Err(Error::Http(answer)) = connect(api, id, query, headers).await else {
        panic!("{query} was taken")
    };
    let body: Value = serde_json::from_slice(answer.body().as_ref().unwrap()).unwrap();
    (answer.status().as_u16(), body["error"]["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn bytes_go_both_ways_and_control_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let mut shell = Shell::open(api, &id, "").await;
    let shell_id = shell.ready().await;
    shell.until("size 80x24\n").await;
    shell.send("hello\n").await;
    shell.until("hello\n").await;
    shell.control(json!({ "type": "resize", "cols": 120, "rows": 50 })).await;
    shell.until("size 120x50\n").await;
    shell.control(json!({ "type": "signal", "signal": "SIGINT" })).await;
    shell.until("signal 2\n").await;
    let record = api.get(&format!("/bunkers/{id}/execs/{shell_id}")).await;
    assert_eq!(
        (&record.data()["mode"], &record.data()["command"]),
        (&json!("shell"), &Value::Null)
    );
    shell.send("exit 7").await;
    assert_eq!(shell.end().await, (json!({ "type": "exit", "exit_code": 7 }), 1000));

    let mut shell = Shell::open(api, &id, "cols=91&rows=33&command=top+-d%201&user=1000").await;
    shell.ready().await;
    shell.until("size 91x33\nruns top -d 1\n").await;
    let exec = worker.execs.lock().unwrap().values().last().unwrap().clone();
    assert_eq!(exec.start.user.as_deref(), Some("1000"));
    shell.send("die\n").await;
    let (words, code) = shell.end().await;
    assert_eq!(
        (&words["type"], &words["code"], code),
        (&json!("error"), &json!("BUNKER_LOST"), 1000)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_comes_back_finds_its_shell() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let mut first = Shell::open(api, &id, "").await;
    let shell_id = first.ready().await;
    first.send("before\n").await;
    first.until("before\n").await;
    drop(first);
    let mut second = Shell::open(api, &id, &format!("shell_id={shell_id}&cols=100")).await;
    assert_eq!(second.ready().await, shell_id);
    second.until("before\n").await;
    second.until("size 100x24\n").await;
    second.send("after\n").await;
    second.until("after\n").await;

    let mut third = Shell::open(api, &id, &format!("shell_id={shell_id}")).await;
    third.ready().await;
    let (words, code) = second.end().await;
    assert_eq!((&words["code"], code), (&json!("SHELL_TAKEN_OVER"), 1000));
    third.send("exit 0").await;
    assert_eq!(third.end().await.0, json!({ "type": "exit", "exit_code": 0 }));
    server.stop().await;
}

#[tokio::test]
async fn what_was_typed_last_reaches_the_shell() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let mut shell = Shell::open(api, &id, "").await;
    shell.ready().await;
    let line = "x".repeat(200_000);
    shell.send(&line).await;
    shell.send("exit 3").await;
    shell.socket.close(None).await.unwrap();
    drop(shell);
    assert!(eventually(async || worker.running_commands.load(Ordering::Relaxed) == 0).await);
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_before_the_upgrade_is_an_ordinary_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let key = format!("Bearer {}", api.key);
    let known = [("authorization", key.as_str())];
    let unauthorized = (401, "UNAUTHORIZED".to_owned());
    assert_eq!(refused(api, &id, "", &[]).await, unauthorized);
    let wrong = [("sec-websocket-protocol", "bearer.sgk_wrong")];
    assert_eq!(refused(api, &id, "", &wrong).await, unauthorized);
    let invalid = (422, "VALIDATION_ERROR".to_owned());
    for query in
        ["cols=0", "rows=1001", "cols=x", "shell=x", "command=", "user=", "shell_id=x&command=a"]
    {
        assert_eq!(refused(api, &id, query, &known).await, invalid, "{query}");
    }
    let unknown = (404, "EXEC_NOT_FOUND".to_owned());
    for shell_id in ["x".to_owned(), ExecId::generate().to_string()] {
        let query = format!("shell_id={shell_id}");
        assert_eq!(refused(api, &id, &query, &known).await, unknown, "{query}");
    }
    let body = json!({ "command": ["sleep"], "detach": true });
    let command = api.post(&format!("/bunkers/{id}/exec"), &body).await;
    let query = format!("shell_id={}", command.data()["exec_id"].as_str().unwrap());
    assert_eq!(refused(api, &id, &query, &known).await, unknown, "a command is no shell");
    let plain = api.get(&format!("/bunkers/{id}/shell")).await;
    assert_eq!(plain.error(), (400, "BAD_REQUEST"));
    api.delete(&format!("/bunkers/{id}")).await;
    let ended = (409, "BUNKER_NOT_RUNNING".to_owned());
    assert_eq!(refused(api, &id, "", &known).await, ended);
    let missing = (404, "NOT_FOUND".to_owned());
    assert_eq!(refused(api, "bnk_x", "", &known).await, missing);
    server.stop().await;
}

#[tokio::test]
async fn a_browser_sends_its_key_as_subprotocol_and_gets_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let protocol = format!("bearer.{}", api.key);
    let offered = format!("terminal, {protocol}");
    let headers = [("sec-websocket-protocol", offered.as_str())];
    let (socket, answer) = connect(api, &id, "", &headers).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], protocol.as_str());
    let mut shell = Shell { socket, text: String::new() };
    shell.ready().await;
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_ends_the_connection_and_not_the_shell() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let mut shell = Shell::open(api, &id, "").await;
    let shell_id = shell.ready().await;
    for wrong in [
        "{",
        r#"{"type":"dance"}"#,
        r#"{"type":"resize","cols":80}"#,
        r#"{"type":"resize","cols":0,"rows":1}"#,
        r#"{"type":"signal","signal":"SIGNOTHING"}"#,
    ] {
        shell.socket.send(Message::text(wrong)).await.unwrap();
        let (words, code) = shell.end().await;
        assert_eq!((&words["code"], code), (&json!("VALIDATION_ERROR"), 1000), "{wrong}");
        shell = Shell::open(api, &id, &format!("shell_id={shell_id}")).await;
        assert_eq!(shell.ready().await, shell_id);
    }
    shell.socket.send(Message::binary(vec![0; 1024 * 1024 + 1])).await.unwrap();
    assert_eq!(shell.end().await, (Value::Null, 1009));
    assert_eq!(worker.running_commands.load(Ordering::Relaxed), 1);
    server.stop().await;
}

#[tokio::test]
async fn both_directions_wait_for_their_reader() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let mut shell = Shell::open(api, &id, "").await;
    shell.ready().await;
    shell.send("yes\n").await;
    let exec = worker.execs.lock().unwrap().values().next().unwrap().clone();
    assert!(eventually(async || exec.frames() > 2).await);
    let stopped_at = settled(async || exec.frames()).await;
    assert!(stopped_at < 400, "{stopped_at} frames of 64 KiB were taken from nobody's reading");
    while exec.frames() < stopped_at + 20 {
        shell.message().await;
    }
    drop(shell);

    let mut shell = Shell::open(api, &id, "").await;
    shell.ready().await;
    shell.send("deaf\n").await;
    let mut sent = 0;
    let flood = async {
        loop {
            shell.send(&"x".repeat(64 * 1024)).await;
            sent += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err());
    assert!(sent < 400, "{sent} messages of 64 KiB were taken for nobody's reading");
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_or_a_lost_worker_ends_shells_with_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = server.api.clone();
    let id = api.running_bunker().await;
    let mut shell = Shell::open(&api, &id, "").await;
    shell.ready().await;
    worker.cut_link();
    assert_eq!(shell.end().await.0["code"], "BUNKER_LOST");

    server.link(&worker).await;
    let mut shell = Shell::open(&api, &id, "").await;
    shell.ready().await;
    server.stop().await;
    let (words, code) = shell.end().await;
    assert_eq!((&words["code"], code), (&json!("SHUTTING_DOWN"), 1000));
}

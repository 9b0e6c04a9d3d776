//! Commands that outlive their request, and those that print more than an answer holds.

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::server::{Server, eventually};

/// Peak resident memory of a process, in MiB.
fn peak_memory_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn detached(server: &Server, id: &str, mut body: Value) -> String {
    body["detach"] = true.into();
    let answer = server.exec(id, body).await;
    assert_eq!(answer.status.as_u16(), 202, "{}", answer.json);
    answer.data()["exec_id"].as_str().unwrap().to_owned()
}

/// The events of a stream: their names, and their data as far as it is JSON.
fn events(text: &str) -> Vec<(String, Value)> {
    let field = |event: &str, name: &str| {
        event.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    text.split("\n\n")
        .filter_map(|event| Some((field(event, "event: ")?, field(event, "data: ")?)))
        .map(|(name, data)| (name, serde_json::from_str(&data).unwrap()))
        .collect()
}

async fn stream(server: &Server, id: &str, exec: &str, from_seq: u64) -> Vec<(String, Value)> {
    let path = format!("/bunkers/{id}/execs/{exec}/stream?from_seq={from_seq}");
    let answer = server.fetch(Method::GET, &path, &[], "").await;
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(
        answer.status().is_success() && text.ends_with("data: [DONE]\n\n"),
        "{:?} {text}",
        answer
    );
    events(&text)
}

fn stdout(events: &[(String, Value)]) -> String {
    let chunks = events.iter().filter(|(name, _)| name == "stdout");
    chunks.map(|(_, data)| data["text"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_command_can_be_found_fed_signalled_and_joined_again() {
    let server = Server::start();
    let id = server.bunker().await;
    // A signal ends a `read` of this shell, so the two do not meet.
    let script = "trap 'echo got TERM; told=1' TERM; echo up; until [ $told ]; do sleep 0.05; done; \
                  while read line; do echo heard $line; done; echo end";
    let exec = detached(&server, &id, json!({ "command": script })).await;
    let path = format!("/bunkers/{id}/execs/{exec}");

    let listed = server.call(Method::GET, &format!("/bunkers/{id}/execs"), None).await;
    assert_eq!(listed.data()[0]["exec_id"], exec.as_str(), "{}", listed.json);
    assert_eq!(listed.data()[0]["status"], "running");

    eventually("its signal handler is in place", async || {
        server.call(Method::GET, &path, None).await.data()["next_seq"] == 1
    })
    .await;
    let feed = async |body: Value| {
        server.call(Method::POST, &format!("{path}/input"), Some(body)).await.status.as_u16()
    };
    assert_eq!(feed(json!({ "data": "one\n" })).await, 204);
    let signal = server
        .call(Method::POST, &format!("{path}/signal"), Some(json!({ "signal": "SIGTERM" })))
        .await;
    assert_eq!(signal.status.as_u16(), 204, "{}", signal.json);
    assert_eq!(feed(json!({ "data_base64": "dHdvCg==", "eof": true })).await, 204);

    let all = stream(&server, &id, &exec, 0).await;
    let text = stdout(&all);
    for line in ["heard one\n", "got TERM\n", "heard two\n"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.ends_with("end\n"), "{text}");
    let (last, exit) = all.last().unwrap();
    assert_eq!((last.as_str(), &exit["exit_code"]), ("exit", &json!(0)));

    let last_seq = all.iter().filter_map(|(_, data)| data["seq"].as_u64()).max().unwrap();
    let rest = stream(&server, &id, &exec, last_seq).await;
    assert_eq!(rest.iter().filter(|(name, _)| name == "stdout").count(), 1, "{rest:?}");

    let record = server.call(Method::GET, &path, None).await;
    assert_eq!(record.data()["status"], "exited", "{}", record.json);
    assert_eq!(record.data()["outcome"]["exit_code"], 0);
    assert_eq!(server.call(Method::DELETE, &path, None).await.status.as_u16(), 204);
    let gone = server.call(Method::GET, &path, None).await;
    assert_eq!(gone.error(), (404, "EXEC_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_a_plain_command_and_leaves_a_detached_one() {
    let server = Server::start();
    let id = server.bunker().await;
    let body = json!({ "command": "echo $$; exec sleep 300", "stream": true }).to_string();
    let headers = [("content-type", "application/json")];
    let path = format!("/bunkers/{id}/exec");
    let mut answer = server.send(Method::POST, &path, &headers, body).await;
    let left = detached(&server, &id, json!({ "command": "exec sleep 301" })).await;
    let runs = async |name: &str| {
        let listed = server.sh(&id, "ps -o args").await;
        listed["stdout"].as_str().unwrap().lines().any(|line| line.trim() == name)
    };
    answer.frame().await.unwrap().unwrap();
    eventually("both run", async || runs("sleep 300").await && runs("sleep 301").await).await;
    drop(answer);
    eventually("the plain one is gone", async || !runs("sleep 300").await).await;
    assert!(runs("sleep 301").await);
    let path = format!("/bunkers/{id}/execs/{left}");
    assert_eq!(server.call(Method::DELETE, &path, None).await.status.as_u16(), 204);
    eventually("the detached one is gone", async || !runs("sleep 301").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_of_any_size_is_kept_whole_in_bounded_memory() {
    const MIB: usize = 192;
    let server = Server::start();
    let id = server.bunker().await;
    server.sh(&id, "true").await;
    let before = peak_memory_mb(server.pid());
    let command =
        format!("dd if=/dev/zero bs=64k count={} 2>/dev/null | tr '\\0' x; echo", MIB * 16);
    let body = json!({ "command": command, "timeout_s": 300 });
    let answer = server.exec(&id, body).await;
    let data = answer.data();
    assert_eq!((&data["truncated"], &data["exit_code"]), (&json!(true), &json!(0)), "{data:.300}");
    assert_eq!(data["stdout"].as_str().unwrap().len(), 1024 * 1024);
    let grown = peak_memory_mb(server.pid()) - before;
    assert!(grown < 48, "three tiers in one process, 16 MiB each: grown by {grown} MiB");

    let reference = data["full_output_ref"].as_str().unwrap();
    let mut whole = server.send(Method::GET, reference, &[], "").await;
    assert!(whole.status().is_success(), "{}", whole.status());
    let (mut size, mut hash) = (0, Sha256::new());
    while let Some(piece) = whole.frame().await {
        let piece = piece.unwrap().into_data().unwrap();
        size += piece.len();
        hash.update(&piece);
    }
    let mut expected = Sha256::new();
    for _ in 0..MIB {
        expected.update(vec![b'x'; 1024 * 1024]);
    }
    expected.update(b"\n");
    assert_eq!(size, MIB * 1024 * 1024 + 1);
    assert_eq!(hash.finalize(), expected.finalize());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_open_request_ends_when_the_bunker_dies() {
    let server = Server::start();
    let id = server.bunker().await;
    let exec = detached(&server, &id, json!({ "command": "sleep 300" })).await;
    let path = format!("/bunkers/{id}/execs/{exec}/stream");
    let (text, took) = tokio::join!(
        async {
            let answer = server.fetch(Method::GET, &path, &[], "").await;
            (String::from_utf8(answer.body().to_vec()).unwrap(), std::time::Instant::now())
        },
        async {
            eventually("the command is joined", async || {
                server.sh(&id, "ps | grep '[s]leep 300'").await["exit_code"] == 0
            })
            .await;
            let pid = rustix::process::Pid::from_raw(server.vmm_pid(&id)).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            std::time::Instant::now()
        }
    );
    let (text, ended) = text;
    assert!(text.contains("BUNKER_LOST") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!((ended - took).as_secs_f64() < 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_event_source_reads_the_stream() {
    let server = Server::start();
    let id = server.bunker().await;
    let said = server.python("events.py", &[&id, "for i in 1 2 3; do echo line $i; done"]).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first(), Some(&"started"), "{said}");
    assert!(said.contains("line 1") && said.contains("line 3"), "{said}");
    assert_eq!(lines[lines.len() - 2..], ["exit 0", "[DONE]"], "{said}");
}

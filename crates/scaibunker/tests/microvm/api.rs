//! What the HTTP API promises, on real microVMs.

use http::Method;
use serde_json::{Value, json};

use crate::server::{Server, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_bunker_from_create_to_terminate() {
    let server = Server::start();
    let id = server.bunker().await;

    let guest = server.sh(&id, "uname -r; hostname; id -u").await;
    let text = guest["stdout"].as_str().unwrap();
    let host = rustix::system::uname();
    assert!(!text.contains(host.release().to_str().unwrap()), "{text}");
    assert!(text.contains(&id.replace('_', "-")), "{text}");

    let answer = server.exec(&id, json!({ "command": ["id", "-un"] })).await;
    assert_eq!(answer.data()["stdout"], "bunker\n");
    let request_id = answer.json["meta"]["request_id"].as_str().unwrap().to_owned();
    eventually("the request id is in every tier's log", async || {
        let log = server.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&request_id)).collect();
        ["scaibunker_controller", "scaibunker_worker", "guest_agent"]
            .iter()
            .all(|tier| lines.iter().any(|line| line.contains(tier)))
    })
    .await;

    let gone = server.delete(&id).await;
    assert_eq!(gone.data()["status"], "terminated", "{}", gone.json);
    assert_eq!(server.delete(&id).await.data()["status"], "terminated");
    let refused = server.exec(&id, json!({ "command": "true" })).await;
    assert_eq!(refused.error(), (409, "BUNKER_NOT_RUNNING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_end_as_a_shell_would_say() {
    let server = Server::start();
    let id = server.bunker().await;
    let code = async |body: Value| server.exec(&id, body).await.data()["exit_code"].clone();
    assert_eq!(code(json!({ "command": "exit 7" })).await, 7);
    assert_eq!(code(json!({ "command": ["/no/such/program"] })).await, 127);
    assert_eq!(code(json!({ "command": ["no-such-program"] })).await, 127);
    assert_eq!(code(json!({ "command": ["/etc/passwd"] })).await, 126);

    let killed = server.exec(&id, json!({ "command": "kill -9 $$" })).await;
    assert_eq!(killed.data()["exit_code"], 137);
    assert_eq!(killed.data()["signal"], "SIGKILL");

    let slow = server.exec(&id, json!({ "command": "sleep 60", "timeout_s": 1 })).await;
    assert_eq!(slow.data()["timed_out"], true, "{}", slow.json);

    let body = json!({ "command": "cat; echo $A$B >&2", "stdin": "in", "env": { "A": "x" } });
    let fed = server.exec(&id, body).await;
    assert_eq!((&fed.data()["stdout"], &fed.data()["stderr"]), (&json!("in"), &json!("x\n")));

    let bytes = server.exec(&id, json!({ "command": "printf '\\377'" })).await;
    assert_eq!(bytes.data()["encoding"], "base64");
    assert_eq!(bytes.data()["stdout"], "/w==");

    let body = json!({ "command": "true", "user": "nobody-here" });
    assert_eq!(server.exec(&id, body).await.error(), (422, "VALIDATION_ERROR"));
    let body = json!({ "command": "true", "cwd": "/no/such/dir" });
    assert_eq!(server.exec(&id, body).await.error(), (422, "VALIDATION_ERROR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_end_is_cut_and_streamed_output_is_not() {
    let server = Server::start();
    let id = server.bunker().await;
    let body = json!({ "command": "yes", "timeout_s": 2 });
    let endless = server.exec(&id, body).await;
    let data = endless.data();
    assert_eq!((&data["truncated"], &data["timed_out"]), (&json!(true), &json!(true)));
    assert_eq!(data["stdout"].as_str().unwrap().len(), 1024 * 1024);

    let body = json!({ "command": "seq 1 20000; echo done >&2", "stream": true });
    let streamed = server.exec(&id, body).await;
    let text = streamed.json.as_str().unwrap();
    let mut stdout = String::new();
    for event in text.split("\n\n").filter(|event| event.contains("event: stdout")) {
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let chunk: Value = serde_json::from_str(data).unwrap();
        stdout.push_str(chunk["text"].as_str().unwrap());
    }
    assert_eq!(stdout.lines().count(), 20_000);
    assert!(text.contains("event: exit") && text.trim_end().ends_with("data: [DONE]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_creates_name_what_is_wrong() {
    let server = Server::start();
    let create = async |body: Value| server.call(Method::POST, "/bunkers", Some(body)).await;
    for (body, expected) in [
        (json!({ "image": "no-such-image" }), (404, "IMAGE_NOT_FOUND")),
        (json!({ "image": "busybox", "memory": 1 }), (422, "VALIDATION_ERROR")),
        (json!({ "image": "busybox", "memory_mb": 0 }), (422, "VALIDATION_ERROR")),
        (
            json!({ "image": "busybox", "network_profile": "transit" }),
            (422, "TRANSIT_MISSING_INTERFACES"),
        ),
    ] {
        assert_eq!(create(body.clone()).await.error(), expected, "{body}");
    }
    let huge = create(json!({ "image": "busybox", "memory_mb": 900_000_000u32 })).await;
    assert!(huge.status.is_client_error() || huge.status.as_u16() == 503, "{}", huge.json);
    let listed = server.call(Method::GET, "/bunkers", None).await;
    assert_eq!(listed.json["data"], json!([]));
}

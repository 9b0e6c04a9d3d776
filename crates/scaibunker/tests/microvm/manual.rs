//! The product manual's page on troubleshooting, followed to the letter: a test for each section.

use std::fs;

use http::Method;
use serde_json::{Value, json};

use crate::server::{Answer, Server};

#[tokio::test(flavor = "multi_thread")]
async fn exec_returns_a_0_exit_code_but_stdout_is_empty() {
    let server = Server::start();
    let id = server.bunker().await;

    // "Output went to a file inside the bunker. Read it back with GET /files/..."
    let quiet = server.exec(&id, json!({ "command": "echo result > /tmp/out.txt" })).await;
    assert_eq!((&quiet.data()["exit_code"], &quiet.data()["stdout"]), (&json!(0), &json!("")));
    let address = server.address(&format!("/bunkers/{id}/files/tmp/out.txt"));
    let read = server.curl().arg(address).output().unwrap();
    assert_eq!(read.stdout, b"result\n", "{read:?}");

    // "Output was truncated to S3. Check truncated: true and full_output_ref on the response;
    // fetch via GET /storage/output/{bunker_id}/{name}."
    let long = server.exec(&id, json!({ "command": "seq 1 300000" })).await;
    let data = long.data();
    assert_eq!((&data["exit_code"], &data["truncated"]), (&json!(0), &json!(true)));
    let reference = data["full_output_ref"].as_str().unwrap();
    assert!(reference.starts_with(&format!("/storage/output/{id}/")), "{reference}");
    let whole = server.curl().arg(server.address(reference)).output().unwrap();
    let text = String::from_utf8(whole.stdout).unwrap();
    assert_eq!(text.lines().count(), 300_000);
    assert_eq!(text.lines().last(), Some("300000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_times_out_mid_command() {
    let server = Server::start();
    let id = server.bunker().await;

    // "The default timeout_s is 60." Shown with a limit that a test can wait for.
    let cut = server.exec(&id, json!({ "command": "echo begun; sleep 90", "timeout_s": 1 })).await;
    let data = cut.data();
    assert_eq!((&data["timed_out"], &data["stdout"]), (&json!(true), &json!("begun\n")));
    assert_eq!(scaibunker_api::exec::DEFAULT_TIMEOUT_S, 60);

    // "Bump timeout_s (no hard ceiling at the API; ...)"
    let bumped = json!({ "command": "echo done", "timeout_s": 1_000_000_000_000_u64 });
    assert_eq!(server.exec(&id, bumped).await.data()["stdout"], "done\n");

    // "Use "stream": true so you see progress as it happens and can decide when to abort."
    let line = "for i in 1 2 3; do echo step $i; done; sleep 120";
    let body = json!({ "command": line, "stream": true, "timeout_s": 600 });
    let mut answer = server
        .send(
            Method::POST,
            &format!("/bunkers/{id}/exec"),
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await;
    let mut seen = String::new();
    while !seen.contains("step 3") {
        let piece = http_body_util::BodyExt::frame(answer.body_mut()).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(piece.data_ref().unwrap()).unwrap());
    }
    drop(answer);
    crate::server::eventually("the abort reaches the command", async || {
        server.sh(&id, "ps | grep '[s]leep 120'").await["exit_code"] == 1
    })
    .await;

    // "Move long work into a snapshot-able session bunker so a partial result survives a
    // controller restart." The session bunker's part of it; snapshots have tests of their own.
    let body = json!({ "image": "busybox", "lifecycle_mode": "session", "disk_mb": 64 });
    let made = server.call(Method::POST, "/bunkers?wait=true", Some(body)).await;
    let session = made.data()["id"].as_str().unwrap().to_owned();
    server.sh(&session, "echo partial > /root/result").await;
    let server = server.crash_and_restart(|| {});
    crate::server::eventually("the session bunker answers again", async || {
        server.status(&session).await["status"] == "running"
            && server.exec(&session, json!({ "command": "true" })).await.status.is_success()
    })
    .await;
    assert_eq!(server.sh(&session, "cat /root/result").await["stdout"], "partial\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_put_returns_413_or_fails_on_a_large_file() {
    let server = Server::start();
    let body = json!({ "image": "busybox", "disk_mb": 256 });
    let made = server.call(Method::POST, "/bunkers?wait=true", Some(body)).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();

    // "The inline PUT path is fine for files under ~10 MB."
    let small = vec![b's'; 10_000_000];
    fs::write(dir.path().join("small"), &small).unwrap();
    let put = |file: &str| {
        let upload = dir.path().join(file);
        let address = server.address(&format!("/bunkers/{id}/files/home/{file}"));
        let output = server.curl().arg("--upload-file").arg(upload).arg(address).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(put("small")["data"]["size_bytes"], 10_000_000);

    let large: Vec<u8> = (0..48 * 1024 * 1024_u32).map(|i| (i % 251) as u8).collect();
    fs::write(dir.path().join("large"), &large).unwrap();
    let refused = put("large");
    assert_eq!(refused["error"]["code"], "FILE_TOO_LARGE", "{refused}");
    let advice = refused["error"]["message"].as_str().unwrap();
    assert!(advice.contains("/files/upload") && advice.contains("/files/commit"), "{advice}");

    // "Call POST /files/upload for a pre-signed S3 URL and key."
    let path = format!("/bunkers/{id}/files/upload");
    let size = json!({ "size_bytes": large.len() });
    let upload = server.call(Method::POST, &path, Some(size)).await.data().clone();

    // "Upload the file directly to S3."
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "120", "--upload-file"]);
    curl.arg(dir.path().join("large"));
    for (name, value) in upload["headers"].as_object().unwrap() {
        curl.arg("--header").arg(format!("{name}: {}", value.as_str().unwrap()));
    }
    let sent = curl.arg(upload["url"].as_str().unwrap()).output().unwrap();
    assert!(sent.status.success(), "{sent:?}");

    // "Call POST /files/commit with {key, dest_path} — the worker injects the file into the bunker."
    let body = json!({ "key": upload["key"], "dest_path": "/home/large" });
    let path = format!("/bunkers/{id}/files/commit");
    let entry = server.call(Method::POST, &path, Some(body)).await;
    assert_eq!(entry.data()["size_bytes"], large.len(), "{}", entry.json);
    let address = server.address(&format!("/bunkers/{id}/files/home/large"));
    let back = server.curl().arg(address).output().unwrap();
    assert!(back.stdout == large);
    let again = server
        .call(Method::POST, &path, Some(json!({ "key": upload["key"], "dest_path": "/home/x" })))
        .await;
    assert_eq!(again.error(), (404, "UPLOAD_NOT_FOUND"));
    let missing = server.fetch(Method::GET, &format!("/bunkers/{id}/files/home/x"), &[], "").await;
    assert_eq!(Answer::of(missing).error(), (404, "FILE_NOT_FOUND"));
}

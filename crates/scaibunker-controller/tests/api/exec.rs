//! Commands, plain and streamed.

use std::{sync::atomic::Ordering, time::Duration};

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, eventually},
    events::parsed,
    server::Server,
    sim_worker::SimWorker,
};

async fn exec(api: &Api, id: &str, argv: Value) -> Answer {
    api.post(&format!("/bunkers/{id}/exec"), &json!({ "command": argv })).await
}

/// The events of a streamed command: names and data.
async fn events(api: &Api, id: &str, argv: Value) -> Vec<(String, Value)> {
    let body = json!({ "command": argv, "stream": true }).to_string();
    let response = api.send(Method::POST, &format!("/bunkers/{id}/exec"), &[], body).await;
    parsed(response).await.into_iter().map(|event| (event.name, event.data)).collect()
}

#[tokio::test]
async fn a_command_answers_with_all_of_its_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;

    let answer = exec(api, &id, json!(["echo", "a", "b"])).await;
    let mut data = answer.data().clone();
    assert!(data["exec_id"].as_str().unwrap().starts_with("exe_"));
    data["exec_id"] = Value::Null;
    assert_eq!(
        data,
        json!({
            "exec_id": null, "exit_code": 0, "signal": null, "timed_out": false,
            "stdout": "a b\n", "stderr": "said\n", "encoding": "utf-8", "truncated": false,
            "full_output_ref": null, "duration_ms": 1, "oom_killed": false,
        })
    );
    assert!(api.get(&format!("/bunkers/{id}")).await.data()["last_active_at"].is_string());
    assert_eq!(exec(api, &id, json!(["exit", "7"])).await.data()["exit_code"], 7);
    assert_eq!(exec(api, &id, json!(["killed"])).await.data()["signal"], "SIGKILL");

    let binary = exec(api, &id, json!(["hex", "ff00"])).await;
    assert_eq!(
        (&binary.data()["encoding"], &binary.data()["stdout"]),
        (&json!("base64"), &json!("/wA="))
    );

    let text = "ü".repeat(300_000);
    let body = json!({ "command": ["cat"], "stdin": text });
    let echoed = api.post(&format!("/bunkers/{id}/exec"), &body).await;
    assert_eq!(echoed.data()["stdout"], text);
    let body = json!({ "command": ["cat"], "stdin_base64": "/wA=" });
    let echoed = api.post(&format!("/bunkers/{id}/exec"), &body).await;
    assert_eq!(echoed.data()["stdout"], "/wA=");

    server.stop().await;
}

#[tokio::test]
async fn a_long_output_is_cut_and_names_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let large = exec(api, &id, json!(["bytes", "5000000"])).await;
    assert_eq!(large.data()["truncated"], true);
    assert_eq!(large.data()["stdout"].as_str().unwrap().len(), 1024 * 1024);
    let exec_id = large.data()["exec_id"].as_str().unwrap();
    let reference = format!("/storage/output/{id}/{exec_id}.stdout");
    assert_eq!(large.data()["full_output_ref"], reference);
    assert_eq!(large.data().get("full_output_error"), None);
    let unkept = exec(api, &id, json!(["bytes", "5000000", "unkept"])).await;
    assert_eq!(
        (&unkept.data()["full_output_ref"], &unkept.data()["full_output_error"]),
        (&Value::Null, &json!("the store is full"))
    );
    let most = exec(api, &id, json!(["bytes", (1024 * 1024).to_string()])).await;
    assert_eq!(most.data()["truncated"], false);
    server.stop().await;
}

#[tokio::test]
async fn a_streamed_command_sends_its_events_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;

    let seen = events(api, &id, json!(["echo", "hi"])).await;
    let names: Vec<_> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["started", "stdout", "stderr", "exit"]);
    assert_eq!(seen[0].1["pid"], 42);
    assert_eq!(seen[1].1, json!({ "seq": 0, "text": "hi\n" }));
    assert_eq!(seen[2].1, json!({ "seq": 1, "text": "said\n" }));
    assert_eq!((&seen[3].1["exit_code"], seen[3].1.get("stdout")), (&json!(0), None));

    // "é" cut in two, then a byte that no text has.
    let seen = events(api, &id, json!(["hex", "61c3", "a9", "ff"])).await;
    let output: Vec<_> = seen[1..4].iter().map(|(_, data)| data.clone()).collect();
    assert_eq!(
        output,
        [
            json!({ "seq": 0, "text": "a" }),
            json!({ "seq": 1, "text": "é" }),
            json!({ "seq": 2, "base64": "/w==" })
        ]
    );
    let seen = events(api, &id, json!(["bytes", "3000000"])).await;
    let bytes: usize =
        seen.iter().filter_map(|(_, data)| data["text"].as_str().map(str::len)).sum();
    assert_eq!(bytes, 3_000_000, "a stream is never cut");
    assert_eq!(seen.last().unwrap().1["truncated"], false);
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let path = format!("/bunkers/{id}/exec");
    for (body, field) in [
        (json!({ "command": ["x"], "timeout_s": 0 }), "timeout_s"),
        (json!({ "command": ["x"], "detach": 1 }), "detach"),
        (json!({ "command": ["x"], "user": "nobody-at-all", "env": { "": "" } }), "env"),
        (json!({ "command": ["x"], "timout_s": 1 }), "timout_s"),
        (json!({ "command": 1 }), "command"),
        (json!({ "command": [] }), "command"),
        (json!({ "command": ["x"], "env": { "A=": "" } }), "env"),
    ] {
        let answer = api.post(&path, &body).await;
        assert_eq!((answer.error(), answer.fields()), ((422, "VALIDATION_ERROR"), vec![field]));
    }
    let body = json!({ "command": ["echo"], "user": "nobody-at-all" });
    assert_eq!(api.post(&path, &body).await.error(), (422, "VALIDATION_ERROR"));
    api.delete(&format!("/bunkers/{id}")).await;
    let ended = exec(api, &id, json!(["echo"])).await;
    assert_eq!(ended.error(), (409, "BUNKER_NOT_RUNNING"));

    // The worker knows better than the database for a moment.
    let id = api.running_bunker().await;
    worker.held().clear();
    assert_eq!(exec(api, &id, json!(["echo"])).await.error(), (409, "BUNKER_NOT_RUNNING"));
    server.stop().await;
}

#[tokio::test]
async fn a_bunker_or_worker_that_dies_ends_its_commands_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    // Room for all of them: the place of a bunker that died is free only once its worker says so.
    let worker = SimWorker::new();
    worker.capacity.lock().unwrap().cpu_millicores = 100_000;
    server.link(&worker).await;
    let api = &server.api;
    for argv in [json!(["hang up"]), json!(["stop answering"]), json!(["die"])] {
        let id = api.running_bunker().await;
        assert_eq!(exec(api, &id, argv).await.error(), (502, "BUNKER_LOST"));
    }
    let id = api.running_bunker().await;
    let seen = events(api, &id, json!(["die"])).await;
    assert_eq!(seen[1].0, "error");
    assert_eq!(seen[1].1, json!({ "code": "BUNKER_LOST", "message": "the microVM died" }));

    let id = api.running_bunker().await;
    let (plain, streamed) = {
        let (api, id) = (api.clone(), id.clone());
        let (other_api, other_id) = (api.clone(), id.clone());
        (
            tokio::spawn(async move { exec(&api, &id, json!(["sleep"])).await }),
            tokio::spawn(async move { events(&other_api, &other_id, json!(["sleep"])).await }),
        )
    };
    assert!(eventually(async || worker.running_commands.load(Ordering::Relaxed) == 2).await);
    worker.cut_link();
    let limit = Duration::from_secs(2);
    let answer = tokio::time::timeout(limit, plain).await.unwrap().unwrap();
    assert_eq!(answer.error(), (502, "BUNKER_LOST"));
    let seen = tokio::time::timeout(limit, streamed).await.unwrap().unwrap();
    assert_eq!((seen[1].0.as_str(), &seen[1].1["code"]), ("error", &json!("BUNKER_LOST")));
    let unlinked = exec(api, &id, json!(["echo"])).await;
    assert_eq!(unlinked.error(), (503, "WORKER_UNAVAILABLE"));
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_command() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    for is_streamed in [false, true] {
        let body = json!({ "command": ["sleep"], "stream": is_streamed }).to_string();
        let (other, path) = (api.clone(), format!("/bunkers/{id}/exec"));
        let running = tokio::spawn(async move {
            let response = other.send(Method::POST, &path, &[], body).await;
            response.into_body().collect().await
        });
        assert!(eventually(async || worker.running_commands.load(Ordering::Relaxed) == 1).await);
        running.abort();
        assert!(eventually(async || worker.running_commands.load(Ordering::Relaxed) == 0).await);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_command_whose_input_nobody_reads_is_cancelled_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let stdin = "x".repeat(1_900_000);
    let body = json!({ "command": ["linger"], "stdin": stdin, "stream": true }).to_string();
    let mut response = api.send(Method::POST, &format!("/bunkers/{id}/exec"), &[], body).await;
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(worker.running_commands.load(Ordering::Relaxed), 1);
    drop(response);
    assert!(eventually(async || worker.running_commands.load(Ordering::Relaxed) == 0).await);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_slows_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let body = json!({ "command": ["yes"], "stream": true }).to_string();
    let mut response = api.send(Method::POST, &format!("/bunkers/{id}/exec"), &[], body).await;
    response.body_mut().frame().await.unwrap().unwrap();
    let exec = worker.execs.lock().unwrap().values().next().unwrap().clone();
    let stopped_at = crate::client::settled(async || exec.frames()).await;
    // Windows and socket buffers of the whole way, and no more.
    assert!(stopped_at < 400, "{stopped_at} frames of 64 KiB were taken from nobody's reading");
    let reading = async {
        while exec.frames() < stopped_at + 20 {
            response.body_mut().frame().await.unwrap().unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_commands_with_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let (api, id) = (server.api.clone(), server.api.running_bunker().await);
    let (other, other_id) = (api.clone(), id.clone());
    let streamed = tokio::spawn(async move { events(&api, &id, json!(["sleep"])).await });
    let plain = tokio::spawn(async move { exec(&other, &other_id, json!(["sleep"])).await });
    assert!(eventually(async || worker.running_commands.load(Ordering::Relaxed) == 2).await);
    server.stop().await;
    let seen = streamed.await.unwrap();
    assert_eq!((seen[1].0.as_str(), &seen[1].1["code"]), ("error", &json!("SHUTTING_DOWN")));
    assert_eq!(plain.await.unwrap().error(), (503, "SHUTTING_DOWN"));
}

//! Commands that outlive their request: listed, joined, fed, signalled and forgotten.

use http::Method;
use scaibunker_api::ids::{BunkerId, ExecId};
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    events::{Event, Stream, parsed},
    server::Server,
};

async fn detached(api: &Api, id: &str, argv: Value) -> String {
    let body = json!({ "command": argv, "detach": true });
    let answer = api.post(&format!("/bunkers/{id}/exec"), &body).await;
    assert_eq!(answer.status, 202, "{}", answer.json);
    let exec_id = answer.data()["exec_id"].as_str().unwrap().to_owned();
    assert_eq!(answer.data(), &json!({ "exec_id": exec_id, "pid": 42 }));
    exec_id
}

async fn ended(api: &Api, path: &str) -> Value {
    let mut record = Value::Null;
    let is_ended = eventually(async || {
        record = api.get(path).await.data().clone();
        record["status"] != "running"
    });
    assert!(is_ended.await);
    record
}

async fn events(api: &Api, path: &str, headers: &[(&str, &str)]) -> Vec<Event> {
    parsed(api.send(Method::GET, &format!("{path}/stream"), headers, "").await).await
}

#[tokio::test]
async fn a_detached_command_has_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    // `detach` wins over `stream`.
    let body = json!({ "command": ["bytes", "3000000"], "detach": true, "stream": true });
    let answer = api.post(&format!("/bunkers/{id}/exec"), &body).await;
    assert_eq!(answer.status, 202);
    let exec_id = answer.data()["exec_id"].as_str().unwrap();
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    let record = ended(api, &path).await;
    assert_eq!(
        record,
        json!({
            "exec_id": exec_id, "status": "exited", "mode": "detached",
            "command": ["bytes", "3000000"], "pid": 42, "started_at": "1970-01-01T00:00:00.000Z",
            "ended_at": "1970-01-01T00:00:00.000Z", "next_seq": 46, "first_seq": 0, "error": null,
            "outcome": {
                "exec_id": exec_id, "exit_code": 0, "signal": null, "timed_out": false,
                "oom_killed": false, "truncated": true, "duration_ms": 1,
                "full_output_ref": format!("/storage/output/{id}/{exec_id}.stdout"),
            },
        })
    );
    let failed = detached(api, &id, json!(["die"])).await;
    let failed = ended(api, &format!("/bunkers/{id}/execs/{failed}")).await;
    assert_eq!(
        (&failed["status"], &failed["outcome"], &failed["error"]["code"]),
        (&json!("failed"), &Value::Null, &json!("BUNKER_LOST"))
    );
    server.stop().await;
}

#[tokio::test]
async fn commands_are_listed_newest_first_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.insert(0, detached(api, &id, json!(["sleep"])).await);
    }
    let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = api.get(&format!("/bunkers/{id}/execs?{query}")).await;
        let names = page.data().as_array().unwrap().iter();
        seen.extend(names.map(|exec| exec["exec_id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page.json["next_cursor"].as_str() else { break };
        assert_eq!(page.json["has_more"], true);
        query = format!("limit=2&cursor={cursor}");
    }
    assert_eq!(seen, expected);
    let wrong = api.get(&format!("/bunkers/{id}/execs?limit=0")).await;
    assert_eq!(wrong.fields(), ["limit"]);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_is_joined_where_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let exec_id = detached(api, &id, json!(["hex", "61", "62", "63"])).await;
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    ended(api, &path).await;

    let all = events(api, &path, &[]).await;
    let names: Vec<_> = all.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["started", "stdout", "stdout", "stdout", "exit"]);
    assert_eq!(all[0].data, json!({ "exec_id": exec_id, "pid": 42 }));
    for (seq, text) in ["a", "b", "c"].iter().enumerate() {
        let event = &all[seq + 1];
        assert_eq!(event.data, json!({ "seq": seq, "text": text }));
        assert_eq!(event.id, Some(seq.to_string()));
    }
    let rest = events(api, &path, &[("last-event-id", "1")]).await;
    assert_eq!(rest[1].data, json!({ "seq": 2, "text": "c" }));
    assert_eq!(rest.len(), 3);
    let query = format!("{path}/stream?from_seq=0");
    let whole = parsed(api.send(Method::GET, &query, &[("last-event-id", "1")], "").await).await;
    assert_eq!(whole, all, "the query wins");
    let none = format!("{path}/stream?from_seq=3");
    assert_eq!(parsed(api.send(Method::GET, &none, &[], "").await).await.len(), 2);

    for (path, headers, field) in [
        (format!("{path}/stream"), vec![("last-event-id", "x")], "Last-Event-ID"),
        (format!("{path}/stream?from_seq=-1"), vec![], "from_seq"),
        (format!("{path}/stream?seq=1"), vec![], "seq"),
    ] {
        let refused = api.call(Method::GET, &path, &headers, "").await;
        assert_eq!((refused.error(), refused.fields()), ((422, "VALIDATION_ERROR"), vec![field]));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_character_is_whole_for_a_client_that_comes_back_inside_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    // "aé" with the second character cut in two.
    let exec_id = detached(api, &id, json!(["hex", "61c3", "a962"])).await;
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    ended(api, &path).await;
    let all = events(api, &path, &[]).await;
    let texts: Vec<_> = all.iter().filter_map(|event| event.data["text"].as_str()).collect();
    assert_eq!(texts, ["a", "éb"]);
    let rest = events(api, &path, &[("last-event-id", all[1].id.as_deref().unwrap())]).await;
    assert_eq!(rest[1].data, json!({ "seq": 1, "text": "éb" }));
    server.stop().await;
}

#[tokio::test]
async fn output_that_is_gone_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let exec_id = detached(api, &id, json!(["forgotten", "5"])).await;
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    assert_eq!(ended(api, &path).await["first_seq"], 5);
    let seen = events(api, &path, &[]).await;
    assert_eq!((seen[1].name.as_str(), &seen[1].data), ("gap", &json!({ "next_seq": 5 })));
    assert_eq!(seen[2].data, json!({ "seq": 5, "text": "last\n" }));
    let seen = events(api, &path, &[("last-event-id", "4")]).await;
    assert_eq!(seen[1].data, json!({ "seq": 5, "text": "last\n" }), "nothing is missing");
    server.stop().await;
}

#[tokio::test]
async fn input_goes_to_a_command_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let exec_id = detached(api, &id, json!(["cat"])).await;
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    let input = format!("{path}/input");
    let mut stream = Stream::new(api.send(Method::GET, &format!("{path}/stream"), &[], "").await);
    assert_eq!(stream.next().await.unwrap().name, "started");
    api.done(Method::POST, &input, &json!({ "data": "one" })).await;
    assert_eq!(stream.next().await.unwrap().data["text"], "one");
    api.done(Method::POST, &input, &json!({ "data_base64": "/w==", "eof": true })).await;
    assert_eq!(stream.next().await.unwrap().data["base64"], "/w==");
    assert_eq!(stream.next().await.unwrap().name, "exit");
    assert_eq!(stream.next().await, None);
    let late = api.post(&input, &json!({ "data": "x" })).await;
    assert_eq!(late.error(), (409, "EXEC_ENDED"));

    let other = detached(api, &id, json!(["sleep"])).await;
    let input = format!("/bunkers/{id}/execs/{other}/input");
    api.done(Method::POST, &input, &json!({ "eof": true })).await;
    let closed = api.post(&input, &json!({ "data": "x" })).await;
    assert_eq!(closed.error(), (409, "STDIN_CLOSED"));
    for (body, field) in [
        (json!({}), "data"),
        (json!({ "data": "a", "data_base64": "" }), "data_base64"),
        (json!({ "data_base64": "?" }), "data_base64"),
        (json!({ "data": "x".repeat(1024 * 1024 + 1) }), "data"),
        (json!({ "date": "x" }), "date"),
    ] {
        assert_eq!(api.post(&input, &body).await.fields(), [field]);
    }
    let body = json!({ "command": ["cat"], "stream": true, "stdin": "a", "stdin_open": true });
    let response =
        api.send(Method::POST, &format!("/bunkers/{id}/exec"), &[], body.to_string()).await;
    let mut stream = Stream::new(response);
    let exec_id = stream.next().await.unwrap().data["exec_id"].as_str().unwrap().to_owned();
    assert_eq!(stream.next().await.unwrap().data["text"], "a");
    let input = format!("/bunkers/{id}/execs/{exec_id}/input");
    api.done(Method::POST, &input, &json!({ "data": "b", "eof": true })).await;
    assert_eq!(stream.next().await.unwrap().data["text"], "b");
    assert_eq!(stream.next().await.unwrap().name, "exit");
    server.stop().await;
}

#[tokio::test]
async fn a_detached_command_gets_all_of_its_input() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let run = format!("/bunkers/{id}/exec");
    let stdin = "x".repeat(1_900_000);
    let body = json!({ "command": ["cat"], "detach": true, "stdin": stdin });
    let exec_id = api.post(&run, &body).await.data()["exec_id"].as_str().unwrap().to_owned();
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    assert_eq!(ended(api, &path).await["next_seq"], 1_900_000u64.div_ceil(64 * 1024));

    // One that does not read holds nobody up.
    let body = json!({ "command": ["linger"], "detach": true, "stdin": stdin });
    assert_eq!(api.post(&run, &body).await.status, 202);
    let body = json!({ "command": ["cat"], "detach": true, "stdin_open": false });
    let exec_id = api.post(&run, &body).await.data()["exec_id"].as_str().unwrap().to_owned();
    ended(api, &format!("/bunkers/{id}/execs/{exec_id}")).await;
    server.stop().await;
}

#[tokio::test]
async fn signals_have_names_and_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    for (signal, name) in [
        (json!("SIGINT"), "SIGINT"),
        (json!("INT"), "SIGINT"),
        (json!("15"), "SIGTERM"),
        (json!(64), "SIG64"),
    ] {
        let exec_id = detached(api, &id, json!(["sleep"])).await;
        let path = format!("/bunkers/{id}/execs/{exec_id}");
        api.done(Method::POST, &format!("{path}/signal"), &json!({ "signal": signal })).await;
        assert_eq!(ended(api, &path).await["outcome"]["signal"], name);
        let late = api.post(&format!("{path}/signal"), &json!({ "signal": 1 })).await;
        assert_eq!(late.error(), (409, "EXEC_ENDED"));
        for signal in [json!(0), json!(65), json!("SIGNOTHING"), json!(null), json!(1.5)] {
            let body = json!({ "signal": signal });
            let refused = api.post(&format!("{path}/signal"), &body).await;
            let said = (refused.error(), refused.fields());
            assert_eq!(said, ((422, "VALIDATION_ERROR"), vec!["signal"]), "{signal}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_deleted_is_killed_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let exec_id = detached(api, &id, json!(["sleep"])).await;
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    api.done(Method::DELETE, &path, &json!({})).await;
    let count = &worker.running_commands;
    assert!(eventually(async || count.load(std::sync::atomic::Ordering::Relaxed) == 0).await);
    assert_eq!(api.delete(&path).await.error(), (404, "EXEC_NOT_FOUND"));
    assert_eq!(api.get(&path).await.error(), (404, "EXEC_NOT_FOUND"));
    assert_eq!(api.get(&format!("{path}/stream")).await.error(), (404, "EXEC_NOT_FOUND"));
    let signal = api.post(&format!("{path}/signal"), &json!({ "signal": 9 })).await;
    assert_eq!(signal.error(), (404, "EXEC_NOT_FOUND"));
    let no_id = api.get(&format!("/bunkers/{id}/execs/x")).await;
    assert_eq!(no_id.error(), (404, "EXEC_NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn commands_are_in_a_bunker_that_runs_and_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let worker = server.worker().await;
    let api = &server.api;
    let (id, exec) = (api.running_bunker().await, ExecId::generate());
    api.delete(&format!("/bunkers/{id}")).await;
    let missing = BunkerId::generate().to_string();
    for (bunker, error) in
        [(id.as_str(), (409, "BUNKER_NOT_RUNNING")), (missing.as_str(), (404, "NOT_FOUND"))]
    {
        let execs = format!("/bunkers/{bunker}/execs");
        assert_eq!(api.get(&execs).await.error(), error);
        for path in [format!("{execs}/{exec}"), format!("{execs}/{exec}/stream")] {
            assert_eq!(api.get(&path).await.error(), error);
        }
        assert_eq!(api.delete(&format!("{execs}/{exec}")).await.error(), error);
        let signal = api.post(&format!("{execs}/{exec}/signal"), &json!({ "signal": 9 })).await;
        assert_eq!(signal.error(), error);
        let input = api.post(&format!("{execs}/{exec}/input"), &json!({ "eof": true })).await;
        assert_eq!(input.error(), error);
    }
    let stranger = server.api.with_key("sgk_wrong");
    let execs = format!("/bunkers/{id}/execs");
    assert_eq!(stranger.get(&execs).await.error(), (401, "UNAUTHORIZED"));

    let id = api.running_bunker().await;
    let exec_id = detached(api, &id, json!(["sleep"])).await;
    let path = format!("/bunkers/{id}/execs/{exec_id}");
    let mut stream = Stream::new(api.send(Method::GET, &format!("{path}/stream"), &[], "").await);
    assert_eq!(stream.next().await.unwrap().name, "started");
    worker.cut_link();
    let lost = stream.next().await.unwrap();
    assert_eq!((lost.name.as_str(), &lost.data["code"]), ("error", &json!("BUNKER_LOST")));
    assert_eq!(stream.next().await, None);
    assert_eq!(api.get(&path).await.error(), (503, "WORKER_UNAVAILABLE"));
    server.stop().await;
}

//! What commands do in the fake controller's bunkers.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream};
use scaibunker_api::ids::{ExecId, RequestId};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fake_controller::{Seen, answer, error, is_live, list_answer};

/// How a command's stream ends.
enum End {
    Exit(Value),
    Lost,
    /// The connection closes without a word.
    Cut,
    /// The last output comes again and again.
    Forever,
    /// Nothing comes any more.
    Hang,
}

/// Every byte there is, in an order that is no UTF-8.
pub fn all_bytes() -> Vec<u8> {
    (0..=255).rev().collect()
}

pub async fn exec(
    State(app): State<Arc<watch::Sender<Seen>>>,
    Path(id): Path<String>,
    Json(request): Json<Value>,
) -> Response {
    app.send_modify(|seen| seen.execs.push(request.clone()));
    if !app.borrow().bunkers.get(&id).is_some_and(is_live) {
        return error(StatusCode::NOT_FOUND, "NOT_FOUND", "no such bunker");
    }
    let argv: Vec<&str> =
        request["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    if request["detach"] == true {
        let exec_id = ExecId::generate().to_string();
        app.send_modify(|seen| _ = seen.started.insert(exec_id.clone(), request.clone()));
        return answer(StatusCode::ACCEPTED, json!({"exec_id": exec_id, "pid": 7}));
    }
    if request["stdin_open"] == true {
        return with_input(app, argv[0] == "head");
    }
    let (stdout, stderr, end) = match argv.as_slice() {
        ["echo", words @ ..] => {
            (format!("{}\n", words.join(" ")).into_bytes(), "", End::Exit(exit(0)))
        }
        ["true"] => (vec![], "", End::Exit(exit(0))),
        ["exit", code] => (vec![], "bye\n", End::Exit(exit(code.parse().unwrap()))),
        ["binary"] => (all_bytes(), "warning\n", End::Exit(exit(0))),
        ["cat"] => {
            let input = request["stdin_base64"].as_str().unwrap_or_default();
            (STANDARD.decode(input).unwrap(), "", End::Exit(exit(0)))
        }
        // The bench's: output of so many MiB, or a script that says nothing.
        ["sh", "-c", script, "sh", mib] if !script.starts_with('(') => {
            let is_silent = script.contains(">/tmp/");
            let mib: usize = if is_silent { 0 } else { mib.parse().unwrap() };
            (vec![b'x'; mib << 20], "", End::Exit(exit(0)))
        }
        ["sh", "-c", ..] => (vec![], "", End::Exit(exit(0))),
        ["sleep"] => {
            let mut ended = exit(143);
            ended["timed_out"] = true.into();
            (vec![], "", End::Exit(ended))
        }
        ["lose"] => (b"before\n".to_vec(), "", End::Lost),
        ["cut"] => (b"before\n".to_vec(), "", End::Cut),
        ["flood"] => (vec![b'x'; 65536], "", End::Forever),
        ["hang"] => (b"hanging\n".to_vec(), "", End::Hang),
        _ => return error(StatusCode::CONFLICT, "BUNKER_NOT_RUNNING", "the bunker is paused"),
    };
    if request["stream"] == true {
        streamed(app, &stdout, stderr, end)
    } else {
        let End::Exit(mut whole) = end else { panic!("only streamed: {argv:?}") };
        whole["stdout"] = String::from_utf8(stdout).unwrap().into();
        whole["stderr"] = stderr.into();
        whole["encoding"] = "utf-8".into();
        answer(StatusCode::OK, whole)
    }
}

fn exit(code: i32) -> Value {
    json!({
        "exec_id": ExecId::generate(), "exit_code": code, "signal": null, "timed_out": false,
        "oom_killed": false, "truncated": false, "full_output_ref": null, "duration_ms": 3,
    })
}

fn streamed(app: Arc<watch::Sender<Seen>>, stdout: &[u8], stderr: &str, end: End) -> Response {
    let event = |name: &str, data: Value| frame(name, &data);
    let done = Bytes::from("data: [DONE]\n\n");
    let mut frames = vec![
        Bytes::from(": keep-alive\n\n"),
        event("started", json!({"exec_id": ExecId::generate(), "pid": 7})),
    ];
    if !stdout.is_empty() {
        let chunk = match std::str::from_utf8(stdout) {
            Ok(text) => json!({"seq": 0, "text": text}),
            Err(_) => json!({"seq": 0, "base64": STANDARD.encode(stdout)}),
        };
        frames.push(event("stdout", chunk));
    }
    if !stderr.is_empty() {
        frames.push(event("stderr", json!({"seq": 1, "text": stderr})));
    }
    let output = frames.last().unwrap().clone();
    match &end {
        End::Exit(outcome) => frames.extend([event("exit", outcome.clone()), done]),
        End::Lost => {
            let lost = json!({"code": "BUNKER_LOST", "message": "the microVM died"});
            frames.extend([event("error", lost), done]);
        }
        End::Cut | End::Forever | End::Hang => {}
    }
    let guard = CountsCancels(matches!(end, End::Forever | End::Hang).then_some(app));
    let rest = stream::unfold((guard, end), move |(guard, end)| {
        let output = output.clone();
        async move {
            match end {
                End::Exit(_) | End::Lost | End::Cut => None,
                End::Forever => Some((output, (guard, end))),
                End::Hang => std::future::pending().await,
            }
        }
    });
    let body = Body::from_stream(stream::iter(frames).chain(rest).map(Ok::<_, Infallible>));
    events(body)
}

/// A command that prints its input, a piece for each call, until it ends; or only the first piece,
/// after which it takes no more.
fn with_input(app: Arc<watch::Sender<Seen>>, is_head: bool) -> Response {
    let exec_id = ExecId::generate().to_string();
    app.send_modify(|seen| _ = seen.started.insert(exec_id.clone(), Value::Null));
    let started = frame("started", &json!({"exec_id": exec_id, "pid": 7}));
    let state = (app.subscribe(), 0, false);
    let rest = stream::unfold(state, move |(mut seen, number, ended)| async move {
        if ended {
            return None;
        }
        let inputs = seen.wait_for(|seen| seen.inputs.len() > number).await.unwrap();
        let input = inputs.inputs[number].clone();
        drop(inputs);
        let mut frames = Vec::new();
        if let Some(base64) = input["data_base64"].as_str() {
            frames.extend(frame("stdout", &json!({"seq": number, "base64": base64})));
        }
        let ended = is_head || input["eof"] == true;
        if ended {
            frames.extend(frame("exit", &exit(0)));
            frames.extend_from_slice(b"data: [DONE]\n\n");
        }
        Some((Bytes::from(frames), (seen, number + 1, ended)))
    });
    let frames = stream::once(async move { started }).chain(rest);
    events(Body::from_stream(frames.map(Ok::<_, Infallible>)))
}

/// Two commands: one that goes on, and one that was killed.
pub async fn list(State(app): State<Arc<watch::Sender<Seen>>>) -> Response {
    let ids: Vec<_> = app.borrow().started.keys().cloned().collect();
    list_answer(ids.iter().enumerate().map(|(number, id)| exec_record(id, number > 0)).collect())
}

fn exec_record(id: &str, has_ended: bool) -> Value {
    let mut outcome = exit(143);
    outcome["exec_id"] = id.into();
    json!({
        "exec_id": id, "status": if has_ended { "exited" } else { "running" }, "mode": "detached",
        "command": ["sleep", "1 h"], "pid": 7, "started_at": "2026-01-02T03:04:05.678Z",
        "ended_at": null, "next_seq": 5, "first_seq": 2,
        "outcome": if has_ended { outcome } else { Value::Null }, "error": null,
    })
}

pub async fn record(
    State(app): State<Arc<watch::Sender<Seen>>>,
    Path((_, exec_id)): Path<(String, String)>,
) -> Response {
    let seen = app.borrow();
    match seen.started.keys().position(|id| *id == exec_id) {
        Some(number) => answer(StatusCode::OK, exec_record(&exec_id, number > 0)),
        None => error(StatusCode::NOT_FOUND, "EXEC_NOT_FOUND", "no such command"),
    }
}

/// The first command goes on until it has been sent a signal; its output before `seq` 2 is gone.
pub async fn attach(
    State(app): State<Arc<watch::Sender<Seen>>>,
    Path((_, exec_id)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    assert_eq!(query["from_seq"], "0");
    let mut frames = vec![
        frame("started", &json!({"exec_id": exec_id, "pid": 7})),
        frame("gap", &json!({"next_seq": 2})),
    ];
    for (seq, text) in [(2, "two\n"), (3, "three\n"), (4, "four\n")] {
        let name = if seq == 3 { "stderr" } else { "stdout" };
        frames.push(frame(name, &json!({"seq": seq, "text": text})));
    }
    let has_ended = app.borrow().started.keys().position(|id| *id == exec_id) > Some(0);
    let mut seen = app.subscribe();
    let rest = stream::once(async move {
        if !has_ended {
            seen.wait_for(|seen| !seen.signals.is_empty()).await.unwrap();
        }
        let end = [frame("exit", &exit(143)), Bytes::from_static(b"data: [DONE]\n\n")];
        Bytes::from(end.concat())
    });
    events(Body::from_stream(stream::iter(frames).chain(rest).map(Ok::<_, Infallible>)))
}

pub async fn input(
    State(app): State<Arc<watch::Sender<Seen>>>,
    Path((_, exec_id)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    let seen = app.borrow().clone();
    assert!(seen.started.contains_key(&exec_id));
    if seen.execs.last().unwrap()["command"][0] == "head" && !seen.inputs.is_empty() {
        return error(StatusCode::CONFLICT, "STDIN_CLOSED", "the command has closed it");
    }
    app.send_modify(|seen| seen.inputs.push(body));
    StatusCode::NO_CONTENT.into_response()
}

pub async fn signal(
    State(app): State<Arc<watch::Sender<Seen>>>,
    Path((_, exec_id)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    if !app.borrow().started.contains_key(&exec_id) {
        return error(StatusCode::NOT_FOUND, "EXEC_NOT_FOUND", "no such command");
    }
    app.send_modify(|seen| seen.signals.push((exec_id, body["signal"].clone())));
    StatusCode::NO_CONTENT.into_response()
}

fn frame(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

fn events(body: Body) -> Response {
    let id = RequestId::generate().to_string();
    ([("content-type", "text/event-stream".to_owned()), ("x-request-id", id)], body).into_response()
}

/// Dropped with the body of a command without end, which is when its client goes away.
struct CountsCancels(Option<Arc<watch::Sender<Seen>>>);

impl Drop for CountsCancels {
    fn drop(&mut self) {
        if let Some(app) = &self.0 {
            app.send_modify(|seen| seen.cancelled += 1);
        }
    }
}

//! What commands do in the fake controller's bunkers.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream};
use scaibunker_api::ids::{ExecId, RequestId};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fake_controller::{Seen, answer, error, is_live};

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
    let event = |name: &str, data: Value| Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
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

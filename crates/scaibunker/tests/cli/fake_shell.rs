//! Shells of the fake controller. What one does is chosen by its command:
//!
//! - `exec exit N`: says `bye` and ends with N
//! - `exec size`: prints each size that it is told, and ends at the fourth
//! - `exec break`: breaks the connection after the first input; a client that comes back gets the
//!   last output again and an echo
//! - `exec lose`: the bunker dies
//! - otherwise: an echo, which ends with 0 at Ctrl-D

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{
        Path, Query, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use scaibunker_api::ids::ExecId;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fake_controller::{Seen, error, is_live};

pub async fn shell(
    State(app): State<Arc<watch::Sender<Seen>>>,
    Path(id): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !app.borrow().bunkers.get(&id).is_some_and(is_live) {
        return error(StatusCode::NOT_FOUND, "NOT_FOUND", "no such bunker");
    }
    if query.contains_key("shell_id") {
        assert!(!query.contains_key("command") && !query.contains_key("user"), "{query:?}");
    }
    app.send_modify(|seen| seen.shells.push(query.clone()));
    upgrade.on_upgrade(move |socket| serve(socket, app, query)).into_response()
}

async fn serve(
    mut socket: WebSocket,
    app: Arc<watch::Sender<Seen>>,
    query: BTreeMap<String, String>,
) {
    let id = query.get("shell_id").cloned().unwrap_or_else(|| ExecId::generate().to_string());
    say(&mut socket, json!({"type": "ready", "shell_id": id})).await;
    say(&mut socket, json!({"type": "news", "of": "a later server"})).await;
    let command = query.get("command").map(String::as_str).unwrap_or_default();
    match command.strip_prefix("exec ").unwrap_or(command).split(' ').collect::<Vec<_>>()[..] {
        ["exit", code] => {
            print(&mut socket, "bye\n").await;
            end(&mut socket, code.parse().unwrap()).await;
        }
        ["size"] => {
            print(&mut socket, &format!("{}x{}\r\n", query["cols"], query["rows"])).await;
            let mut sizes = 1;
            while let Some(Ok(message)) = socket.recv().await {
                let Message::Text(text) = message else { continue };
                let resize: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(resize["type"], "resize");
                print(&mut socket, &format!("{}x{}\r\n", resize["cols"], resize["rows"])).await;
                sizes += 1;
                if sizes == 3 {
                    return end(&mut socket, 0).await;
                }
            }
        }
        ["break"] => {
            print(&mut socket, "before").await;
            while !matches!(socket.recv().await, Some(Ok(Message::Binary(_))) | None) {}
        }
        ["lose"] => {
            let lost = json!({"type": "error", "code": "BUNKER_LOST", "message": "the VM died"});
            say(&mut socket, lost).await;
            linger(&mut socket).await;
        }
        _ => echo(&mut socket, &app).await,
    }
}

async fn echo(socket: &mut WebSocket, app: &watch::Sender<Seen>) {
    print(socket, "ready> ").await;
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Binary(bytes) = message else { continue };
        app.send_modify(|seen| seen.typed.extend_from_slice(&bytes));
        let at = bytes.iter().position(|&byte| byte == 4);
        let typed = bytes.slice(..at.unwrap_or(bytes.len()));
        socket.send(Message::Binary(typed)).await.unwrap();
        if at.is_some() {
            return end(socket, 0).await;
        }
    }
}

async fn print(socket: &mut WebSocket, text: &str) {
    socket.send(Message::Binary(text.to_owned().into())).await.unwrap();
}

async fn say(socket: &mut WebSocket, message: Value) {
    socket.send(Message::Text(message.to_string().into())).await.unwrap();
}

async fn end(socket: &mut WebSocket, code: i32) {
    say(socket, json!({"type": "exit", "exit_code": code})).await;
    linger(socket).await;
}

/// Waits until the client closes: to close with its input unread could cost it what was said last.
async fn linger(socket: &mut WebSocket) {
    while let Some(Ok(_)) = socket.recv().await {}
}

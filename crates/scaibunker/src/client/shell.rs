//! The WebSocket of a shell.

use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use http::header;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use scaibunker_api::{
    ids::{BunkerId, ExecId},
    shell::ToShell,
    worker::ResizeTerminal,
};
use serde::Deserialize;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    Client, ClientError,
    error::{WireError, root_cause},
    query_value,
    transport::request_id,
};

/// Largest message that is taken from the server.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Which shell, and how it is to be.
#[derive(Debug, Clone)]
pub struct ShellTarget {
    pub bunker: BunkerId,
    /// A line for `sh -c`; `None`: the login shell.
    pub command: Option<String>,
    pub user: Option<String>,
    /// A shell that was left, to come back to.
    pub shell_id: Option<ExecId>,
}

/// What a shell says.
#[derive(Debug)]
pub enum ShellEvent {
    /// First of all.
    Ready(ExecId),
    Output(Bytes),
    /// Last of all.
    Exit(i32),
}

/// The way to a shell.
#[derive(Debug)]
pub struct ShellSender(SplitSink<Socket, Message>);

/// The way from a shell.
#[derive(Debug)]
pub struct ShellReceiver {
    socket: SplitStream<Socket>,
    request_id: Option<String>,
}

/// A text message; what a newer server may say besides is passed over.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Control {
    Ready {
        shell_id: ExecId,
    },
    Exit {
        exit_code: i32,
    },
    Error(WireError),
    #[serde(other)]
    Unknown,
}

impl Client {
    /// Starts a shell in a terminal of this size, or comes back to one.
    pub async fn shell(
        &self,
        target: &ShellTarget,
        size: ResizeTerminal,
    ) -> Result<(ShellSender, ShellReceiver), ClientError> {
        let key = generate_key();
        let headers = [
            (header::CONNECTION.as_str(), "Upgrade"),
            (header::UPGRADE.as_str(), "websocket"),
            (header::SEC_WEBSOCKET_VERSION.as_str(), "13"),
            (header::SEC_WEBSOCKET_KEY.as_str(), key.as_str()),
        ];
        let response = self.transport.upgrade(&target.path(size), &headers).await?;
        let request_id = request_id(response.headers());
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted != derive_accept_key(key.as_bytes()).as_str()) {
            let reason = "it does not speak WebSocket".to_owned();
            return Err(ClientError::Unexpected { reason, request_id });
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| {
            ClientError::Interrupted { reason: root_cause(&error), request_id: request_id.clone() }
        })?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let socket =
            Socket::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
        let (sender, socket) = socket.split();
        Ok((ShellSender(sender), ShellReceiver { socket, request_id }))
    }
}

impl ShellTarget {
    fn path(&self, size: ResizeTerminal) -> String {
        let ResizeTerminal { cols, rows } = size;
        let mut path = format!("/bunkers/{}/shell?cols={cols}&rows={rows}", self.bunker);
        // What a shell that was left runs, and as whom, is settled already.
        let shell_id = self.shell_id.map(|id| id.to_string());
        let options = match &shell_id {
            Some(_) => [("shell_id", &shell_id), ("", &None)],
            None => [("command", &self.command), ("user", &self.user)],
        };
        for (name, value) in options {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", query_value(value)));
            }
        }
        path
    }
}

impl ShellSender {
    /// Sends what was typed.
    pub async fn input(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        self.send(Message::Binary(bytes)).await
    }

    /// Tells the terminal's new size.
    pub async fn resize(&mut self, size: ResizeTerminal) -> Result<(), ClientError> {
        let ResizeTerminal { cols, rows } = size;
        let text = serde_json::to_string(&ToShell::Resize { cols, rows }).unwrap_or_default();
        self.send(Message::text(text)).await
    }

    /// Shows everything on the way that the connection is in use.
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.send(Message::Ping(Bytes::new())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.0.send(message).await.map_err(|error| ClientError::Interrupted {
            reason: root_cause(&error),
            request_id: None,
        })
    }
}

impl ShellReceiver {
    /// What the shell says next. Cancel-safe.
    pub async fn next(&mut self) -> Result<ShellEvent, ClientError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(ShellEvent::Output(bytes)),
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(Control::Ready { shell_id }) => return Ok(ShellEvent::Ready(shell_id)),
                    Ok(Control::Exit { exit_code }) => return Ok(ShellEvent::Exit(exit_code)),
                    Ok(Control::Error(error)) => {
                        return Err(error.into_error(None, self.request_id.clone()));
                    }
                    Ok(Control::Unknown) => {}
                    Err(error) => {
                        let (reason, request_id) = (error.to_string(), self.request_id.clone());
                        return Err(ClientError::Unexpected { reason, request_id });
                    }
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Err(self.interrupted("it was closed")),
                Some(Err(error)) => return Err(self.interrupted(root_cause(&error))),
            }
        }
    }

    fn interrupted(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Interrupted { reason: reason.into(), request_id: self.request_id.clone() }
    }
}

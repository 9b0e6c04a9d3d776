//! `GET /bunkers/{id}/shell`: a terminal over a WebSocket.
//!
//! ```text
//! client ── binary: keystrokes, text: resize and signal ──▶ shell
//! client ◀── text: ready, binary: output, text: exit or error, close ── shell
//! ```
//!
//! Both directions wait for their reader, so a client that stops reading stops the shell's output.
//! A control message that cannot be read ends the connection with an `error` frame; the shell then
//! waits for its client to come back, as it does whenever a connection ends before it.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
        },
    },
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, ExecId},
    shell::{FromShell, ToShell},
    worker::ResizeTerminal,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{interval, timeout};
use tracing::Instrument as _;

use super::{actor::KeyProtocol, bunkers::note, fault::Fault, path::PathId, query::Query};
use crate::{
    app::App,
    domain::{actor::Actor, exec::ShellRequest},
    exec::{ExecEvent, ExecSession, Shell, ShellControl, ShellInput},
};

const DEFAULT_SIZE: ResizeTerminal = ResizeTerminal { cols: 80, rows: 24 };
/// Longest message of a client, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// A client that says nothing for this long, not even `pong`, is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// What a client gets to read the last words, and the shell to take a client's.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Codes of RFC 6455 with which a connection is closed.
const CLOSE_NORMAL: u16 = 1000;
const CLOSE_TOO_BIG: u16 = 1009;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ShellQuery {
    /// Of the terminal; 80 unless given.
    cols: Option<u16>,
    /// Of the terminal; 24 unless given.
    rows: Option<u16>,
    /// What runs instead of the login shell.
    command: Option<String>,
    user: Option<String>,
    /// Go back to this shell.
    shell_id: Option<String>,
}

impl ShellQuery {
    fn size(&self) -> ResizeTerminal {
        ResizeTerminal {
            cols: self.cols.unwrap_or(DEFAULT_SIZE.cols),
            rows: self.rows.unwrap_or(DEFAULT_SIZE.rows),
        }
    }

    /// The shell to go back to; what it runs and as whom is settled already.
    fn shell_id(&self) -> Result<Option<ExecId>, ErrorBody> {
        let Some(id) = &self.shell_id else { return Ok(None) };
        for (field, value) in [("command", &self.command), ("user", &self.user)] {
            if value.is_some() {
                let message = "must not be given together with `shell_id`";
                return Err(ErrorBody::invalid(field, message));
            }
        }
        let no_shell = |error| ErrorBody::new(ErrorCode::ExecNotFound, format!("{error}"));
        id.parse().map(Some).map_err(no_shell)
    }
}

/// Whatever is wrong before the upgrade is an ordinary answer.
pub(super) async fn open(
    State(app): State<Arc<App>>,
    actor: Actor,
    KeyProtocol(protocol): KeyProtocol,
    PathId(id): PathId<BunkerId>,
    Query(query): Query<ShellQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Fault> {
    note(id);
    let upgrade = upgrade.map_err(|error| {
        let message = format!("a shell is a WebSocket: {error}");
        ErrorBody::new(ErrorCode::BadRequest, message)
    })?;
    let size = query.size();
    let shell = match query.shell_id()? {
        Some(shell_id) => {
            let is_sized = query.cols.is_some() || query.rows.is_some();
            app.execs.reopen_shell(&actor, id, shell_id, is_sized.then_some(size)).await?
        }
        None => {
            let request = ShellRequest { size, command: query.command, user: query.user };
            app.execs.open_shell(&actor, id, request).await?
        }
    };
    let (tasks, span) = (app.tasks.clone(), tracing::Span::current());
    let serve = move |socket: WebSocket| {
        let draining = app.draining.clone();
        let served = async move {
            let (sink, stream) = socket.split();
            let mut down = Down { sink };
            let end = tokio::select! {
                biased;
                () = draining.cancelled() => {
                    let message = "the server is shutting down; the shell ends with it";
                    End::Failed(ErrorBody::new(ErrorCode::ShuttingDown, message))
                }
                end = carry(shell, &mut down, stream) => end,
            };
            // A client that reads nothing any more does not hold the shell up.
            if timeout(FAREWELL_LIMIT, down.finish(end)).await.is_err() {
                tracing::debug!("a shell's client did not take the last words");
            }
        };
        tasks.track_future(served.instrument(span))
    };
    let upgrade = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    Ok(upgrade.protocols(protocol).on_upgrade(serve))
}

/// Why a connection ends.
enum End {
    Exited(i32),
    Failed(ErrorBody),
    TooBig,
    /// There is nobody to tell.
    ClientGone,
}

impl End {
    fn of_fault(error: axum::Error) -> Self {
        match error.into_inner().downcast_ref() {
            Some(tungstenite::Error::Capacity(_)) => Self::TooBig,
            _ => Self::ClientGone,
        }
    }
}

async fn carry(shell: Shell, down: &mut Down, stream: SplitStream<WebSocket>) -> End {
    let Shell { mut session, input, control } = shell;
    let shell_id = control.shell_id;
    let up = Up { stream, input, control };
    let end = tokio::select! {
        end = down.carry(&mut session, shell_id) => end,
        end = up.carry() => end,
    };
    if matches!(end, End::ClientGone) {
        // What the client typed last is still on its way; giving the stream up would lose it.
        let _ = timeout(FAREWELL_LIMIT, async { while session.next().await.is_ok() {} }).await;
    }
    end
}

/// From the shell to its client.
struct Down {
    sink: SplitSink<WebSocket, Message>,
}

impl Down {
    async fn carry(&mut self, session: &mut ExecSession, shell_id: ExecId) -> End {
        if self.say(&FromShell::Ready { shell_id }).await.is_err() {
            return End::ClientGone;
        }
        let mut pings = interval(PING_INTERVAL);
        pings.reset();
        loop {
            let message = tokio::select! {
                event = session.next() => match event {
                    Ok(ExecEvent::Output { bytes, .. }) => Message::Binary(bytes),
                    Ok(ExecEvent::Started(_) | ExecEvent::Gap(_)) => continue,
                    Ok(ExecEvent::Exit(outcome)) => return End::Exited(outcome.exit_code),
                    Err(error) => return End::Failed(error),
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            if self.sink.send(message).await.is_err() {
                return End::ClientGone;
            }
        }
    }

    async fn say(&mut self, words: &FromShell) -> Result<(), axum::Error> {
        match serde_json::to_string(words) {
            Ok(json) => self.sink.send(Message::Text(json.into())).await,
            Err(error) => Err(axum::Error::new(error)),
        }
    }

    async fn finish(&mut self, end: End) {
        let (words, code) = match end {
            End::ClientGone => return,
            End::Exited(exit_code) => (Some(FromShell::Exit { exit_code }), CLOSE_NORMAL),
            End::Failed(ErrorBody { code, message, .. }) => {
                (Some(FromShell::Error { code, message }), CLOSE_NORMAL)
            }
            End::TooBig => (None, CLOSE_TOO_BIG),
        };
        if let Some(words) = &words
            && self.say(words).await.is_err()
        {
            return;
        }
        let close = CloseFrame { code, reason: "".into() };
        // The client may have closed first.
        let _ = self.sink.send(Message::Close(Some(close))).await;
        let _ = self.sink.close().await;
    }
}

/// From the client to its shell.
struct Up {
    stream: SplitStream<WebSocket>,
    input: ShellInput,
    control: ShellControl,
}

impl Up {
    async fn carry(mut self) -> End {
        loop {
            let message = match timeout(SILENCE_LIMIT, self.stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return End::of_fault(error),
                Ok(None) | Err(_) => return End::ClientGone,
            };
            match message {
                Message::Binary(bytes) => self.input.write(bytes).await,
                Message::Text(text) => {
                    if let Err(error) = self.obey(&text).await {
                        return End::Failed(error);
                    }
                }
                Message::Close(_) => return End::ClientGone,
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    }

    async fn obey(&self, text: &str) -> Result<(), ErrorBody> {
        let control = serde_json::from_str(text).map_err(|error| {
            let message = format!("a control message cannot be read: {error}");
            ErrorBody::new(ErrorCode::ValidationError, message)
        })?;
        match control {
            ToShell::Resize { cols, rows } => {
                self.control.resize(ResizeTerminal { cols, rows }).await
            }
            ToShell::Signal { signal } => self.control.signal(&signal).await,
        }
    }
}

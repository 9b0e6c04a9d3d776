//! The events of one streamed command.

use std::{collections::VecDeque, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use scaibunker_api::exec::{ExecOutcome, OutputChunk, OutputGap, Started};
use serde::de::DeserializeOwned;

use super::{
    error::{ClientError, WireError, root_cause},
    sse::{Event, Parser},
    transport::request_id,
};

/// Silence after which the connection counts as broken; the server speaks every 15 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// What ends every stream, good or bad.
const DONE: &str = "[DONE]";

/// What a running command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Started(Started),
    Stdout(Bytes),
    Stderr(Bytes),
    /// Output before this is no longer at hand.
    Gap(OutputGap),
    /// The command ended; no event follows.
    Exit(ExecOutcome),
}

/// A command whose output is read while it runs. Dropping it closes the connection, which ends
/// the command if this was the call that started it.
#[derive(Debug)]
pub struct ExecStream {
    body: Incoming,
    parser: Parser,
    ready: VecDeque<Event>,
    request_id: Option<String>,
    next_seq: u64,
}

impl ExecStream {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        Self {
            request_id: request_id(response.headers()),
            body: response.into_body(),
            parser: Parser::default(),
            ready: VecDeque::new(),
            next_seq: 0,
        }
    }

    /// The sequence number after the last piece of output that was given out or lost.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The next event; `None` after the server has ended the stream as it should. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                if event.data == DONE {
                    return Ok(None);
                }
                if let Some(event) = self.decode(&event)? {
                    return Ok(Some(event));
                }
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), ClientError> {
        let interrupted = |reason: String| ClientError::Interrupted {
            reason,
            request_id: self.request_id.clone(),
        };
        match tokio::time::timeout(SILENCE_LIMIT, self.body.frame()).await {
            Err(_) => Err(interrupted(format!("nothing came for {} s", SILENCE_LIMIT.as_secs()))),
            Ok(None) => Err(interrupted("the stream ended before the command did".to_owned())),
            Ok(Some(Err(error))) => Err(interrupted(root_cause(&error))),
            Ok(Some(Ok(frame))) => {
                if let Some(piece) = frame.data_ref() {
                    let events = self.parser.push(piece);
                    self.ready.extend(events.map_err(|error| self.unexpected(error))?);
                }
                Ok(())
            }
        }
    }

    /// `None` for an event that this client does not know.
    fn decode(&mut self, event: &Event) -> Result<Option<ExecEvent>, ClientError> {
        Ok(Some(match event.name.as_str() {
            "started" => ExecEvent::Started(self.json(event)?),
            "stdout" => ExecEvent::Stdout(self.bytes(event)?),
            "stderr" => ExecEvent::Stderr(self.bytes(event)?),
            "gap" => {
                let gap: OutputGap = self.json(event)?;
                self.next_seq = gap.next_seq;
                ExecEvent::Gap(gap)
            }
            "exit" => ExecEvent::Exit(self.json(event)?),
            "error" => {
                let error: WireError = self.json(event)?;
                return Err(error.into_error(None, self.request_id.clone()));
            }
            _ => return Ok(None),
        }))
    }

    fn bytes(&mut self, event: &Event) -> Result<Bytes, ClientError> {
        let chunk: OutputChunk = self.json(event)?;
        self.next_seq = chunk.seq.saturating_add(1);
        match (chunk.text, chunk.base64) {
            (Some(text), None) => Ok(text.into()),
            (None, Some(base64)) => {
                STANDARD.decode(base64).map(Bytes::from).map_err(|error| self.unexpected(error))
            }
            _ => Err(self.unexpected("an output event needs either `text` or `base64`")),
        }
    }

    fn json<T: DeserializeOwned>(&self, event: &Event) -> Result<T, ClientError> {
        serde_json::from_str(&event.data)
            .map_err(|error| self.unexpected(format!("`{}` event: {error}", event.name)))
    }

    fn unexpected(&self, reason: impl ToString) -> ClientError {
        ClientError::Unexpected { reason: reason.to_string(), request_id: self.request_id.clone() }
    }
}

//! The events of one streamed command.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use scaibunker_api::exec::{ExecOutcome, OutputChunk, OutputGap, Started};

use super::{error::ClientError, event_stream::EventStream, sse::Event};

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
    events: EventStream,
    next_seq: u64,
}

impl ExecStream {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        Self { events: EventStream::new(response), next_seq: 0 }
    }

    /// The sequence number after the last piece of output that was given out or lost.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The next event; `None` after the server has ended the stream as it should. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        while let Some(event) = self.events.next().await? {
            if let Some(event) = self.decode(&event)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// `None` for an event that this client does not know.
    fn decode(&mut self, event: &Event) -> Result<Option<ExecEvent>, ClientError> {
        Ok(Some(match event.name.as_str() {
            "started" => ExecEvent::Started(self.events.json(event)?),
            "stdout" => ExecEvent::Stdout(self.bytes(event)?),
            "stderr" => ExecEvent::Stderr(self.bytes(event)?),
            "gap" => {
                let gap: OutputGap = self.events.json(event)?;
                self.next_seq = gap.next_seq;
                ExecEvent::Gap(gap)
            }
            "exit" => ExecEvent::Exit(self.events.json(event)?),
            _ => return Ok(None),
        }))
    }

    fn bytes(&mut self, event: &Event) -> Result<Bytes, ClientError> {
        let chunk: OutputChunk = self.events.json(event)?;
        self.next_seq = chunk.seq.saturating_add(1);
        match (chunk.text, chunk.base64) {
            (Some(text), None) => Ok(text.into()),
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .map(Bytes::from)
                .map_err(|error| self.events.unexpected(error)),
            _ => Err(self.events.unexpected("an output event needs either `text` or `base64`")),
        }
    }
}

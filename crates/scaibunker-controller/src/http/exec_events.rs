//! A command's events as server-sent events.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use scaibunker_api::{
    error::ErrorBody,
    exec::{ExecOutcome, OutputChunk},
};

use super::{
    fault::Fault,
    sse::{self, EventSource, Events},
};
use crate::{
    domain::output::{Piece, TextSplitter},
    exec::{ExecEvent, ExecSession, OutputStream},
};

/// Answers with the events of the command. One that does not even start is an ordinary error.
/// `from_seq` is where output begins; `finish` says how the outcome is shown.
pub(super) async fn respond(
    mut session: ExecSession,
    from_seq: u64,
    finish: fn(ExecOutcome) -> ExecOutcome,
) -> Result<Response, Fault> {
    let first = session.next().await?;
    let output = [Stream::new("stdout"), Stream::new("stderr")];
    let mut source = Source { session, from_seq, finish, output };
    let mut events = Events::default();
    source.push(Ok(first), &mut events);
    Ok(sse::respond(source, events))
}

/// Number of the output frame to ask for, so that a character which begins before `from_seq` is
/// not lost on a client that goes on from there.
pub(super) fn lead_in(from_seq: u64) -> u64 {
    from_seq.saturating_sub(1)
}

struct Source {
    session: ExecSession,
    /// Output frames before this are only read for the character that their end may begin.
    from_seq: u64,
    finish: fn(ExecOutcome) -> ExecOutcome,
    output: [Stream; 2],
}

/// Standard output or standard error.
struct Stream {
    name: &'static str,
    splitter: TextSplitter,
    last_seq: u64,
}

impl EventSource for Source {
    async fn next(&mut self, events: &mut Events) {
        let event = self.session.next().await;
        self.push(event, events);
    }
}

impl Source {
    fn push(&mut self, event: Result<ExecEvent, ErrorBody>, events: &mut Events) {
        match event {
            Ok(ExecEvent::Started(started)) => events.add("started", None, &started),
            Ok(ExecEvent::Output { stream, seq, bytes }) => {
                let [stdout, stderr] = &mut self.output;
                let stream = match stream {
                    OutputStream::Stdout => stdout,
                    OutputStream::Stderr => stderr,
                };
                stream.last_seq = seq;
                let piece = stream.splitter.push(bytes);
                if seq >= self.from_seq {
                    stream.add(piece, events);
                }
            }
            Ok(ExecEvent::Gap(gap)) => {
                self.flush(events);
                if gap.next_seq > self.from_seq {
                    events.add("gap", None, &gap);
                }
            }
            Ok(ExecEvent::Exit(outcome)) => {
                self.flush(events);
                events.add("exit", None, &(self.finish)(outcome));
                events.end();
            }
            Err(error) => {
                tracing::warn!(code = error.code.as_str(), "a streamed command failed");
                self.flush(events);
                events.fail(&error);
            }
        }
    }

    /// Lets go of characters that will never be whole.
    fn flush(&mut self, events: &mut Events) {
        for stream in &mut self.output {
            let piece = stream.splitter.finish();
            if stream.last_seq >= self.from_seq {
                stream.add(piece, events);
            }
        }
    }
}

impl Stream {
    fn new(name: &'static str) -> Self {
        Self { name, splitter: TextSplitter::default(), last_seq: 0 }
    }

    fn add(&self, piece: Option<Piece>, events: &mut Events) {
        let (text, base64) = match piece {
            None => return,
            Some(Piece::Text(text)) => (Some(text), None),
            Some(Piece::Binary(bytes)) => (None, Some(STANDARD.encode(bytes))),
        };
        let seq = self.last_seq;
        events.add(self.name, Some(seq), &OutputChunk { seq, text, base64 });
    }
}

//! A client's view of a command: its frames as they go over the link.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use scaibunker_api::{
    error::ErrorBody,
    exec::OutputGap,
    worker::{ExecStarted, ExecState},
};
use scaibunker_guest_protocol::frame::{Frame, FrameKind, HEADER_BYTES};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    exec::{Exec, State},
    journal::{Next, ReaderId},
};

/// Frames go out together until they are this long.
const PIECE_BYTES: usize = 32 * 1024;

/// Reads one command. Dropping it ends an attached command whose primary reader it is.
pub struct Reader {
    exec: Arc<Exec>,
    id: ReaderId,
    next_seq: u64,
    gone: CancellationToken,
    _going: DropGuard,
    has_begun: bool,
    has_ended: bool,
}

impl Reader {
    /// A reader from `from_seq` on, or from the oldest output that is there. `is_first`: it came
    /// with the command.
    pub fn new(exec: &Arc<Exec>, from_seq: Option<u64>, is_first: bool) -> Result<Self, ErrorBody> {
        let place = exec.place_reader(from_seq, is_first)?;
        Ok(Self {
            exec: Arc::clone(exec),
            id: place.id,
            next_seq: place.next_seq,
            _going: place.gone.clone().drop_guard(),
            gone: place.gone,
            has_begun: false,
            has_ended: false,
        })
    }

    #[must_use]
    pub fn id(&self) -> ReaderId {
        self.id
    }

    /// Cancelled once the reader has gone, or may not feed the command any more.
    #[must_use]
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Whether nothing more will come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The next frames, encoded; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        let exec = Arc::clone(&self.exec);
        while !self.has_ended {
            let mut news = std::pin::pin!(exec.news.notified());
            news.as_mut().enable();
            let wire = self.gather();
            if !wire.is_empty() {
                return Some(wire);
            }
            news.await;
        }
        None
    }

    fn gather(&mut self) -> Bytes {
        let mut wire = BytesMut::new();
        let mut state = self.exec.state();
        if let Some(error) = state.expelled.remove(&self.id) {
            self.has_ended = true;
            put_json(&mut wire, FrameKind::Error, &error);
            return wire.freeze();
        }
        if let (false, Some(pid)) = (self.has_begun, state.pid) {
            self.has_begun = true;
            let started = ExecStarted { exec_id: self.exec.id, pid, next_seq: self.next_seq };
            put_json(&mut wire, FrameKind::Started, &started);
        }
        let has_more = put_output(&mut wire, &mut state, self.id);
        if let (false, Some(end)) = (has_more, &state.end) {
            self.has_ended = true;
            match &end.state {
                ExecState::Exited { end } => put_json(&mut wire, FrameKind::Exit, end),
                ExecState::Failed { error } => put_json(&mut wire, FrameKind::Error, error),
                // Not a way to end.
                ExecState::Running => {}
            }
        }
        drop(state);
        self.exec.moved.notify_waiters();
        wire.freeze()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.exec.remove_reader(self.id);
    }
}

/// Whether the piece is full before the reader has seen everything.
fn put_output(wire: &mut BytesMut, state: &mut State, id: ReaderId) -> bool {
    let now = Instant::now();
    while wire.len() < PIECE_BYTES {
        match state.journal.next(id, now) {
            None => return false,
            Some(Next::Frame(frame)) => put(wire, &frame),
            Some(Next::Gap { next_seq }) => put_json(wire, FrameKind::Gap, &OutputGap { next_seq }),
        }
    }
    true
}

fn put(wire: &mut BytesMut, frame: &Frame) {
    wire.reserve(HEADER_BYTES + frame.payload.len());
    wire.put_slice(&Frame::header(frame.kind, frame.payload.len()));
    wire.put_slice(&frame.payload);
}

fn put_json<T: Serialize>(wire: &mut BytesMut, kind: FrameKind, value: &T) {
    match Frame::json(kind, value) {
        Ok(frame) => put(wire, &frame),
        Err(error) => tracing::error!(?kind, %error, "a frame cannot be written"),
    }
}

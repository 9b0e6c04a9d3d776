//! One command, followed over the link.

use bytes::Bytes;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{ExecOutcome, OutputGap, Started},
    ids::{BunkerId, ExecId},
    worker::{ExecEnd, ExecStarted},
};
use scaibunker_guest_protocol::frame::{Frame, FrameKind};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::exec_record::outcome,
    fleet::{ExecFrames, LinkError},
};

/// Where a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// What a running command says. `Exit` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Started(Started),
    Output { stream: OutputStream, seq: u64, bytes: Bytes },
    Gap(OutputGap),
    Exit(ExecOutcome),
}

/// A command that is followed. Dropping it ends an attached command.
#[derive(Debug)]
pub struct ExecSession {
    bunker_id: BunkerId,
    exec_id: ExecId,
    frames: ExecFrames,
    /// Number of the next output frame.
    next_seq: u64,
    deadline: Option<Instant>,
    drained: CancellationToken,
}

impl ExecSession {
    pub(super) fn new(
        bunker_id: BunkerId,
        exec_id: ExecId,
        frames: ExecFrames,
        deadline: Option<Instant>,
        drained: CancellationToken,
    ) -> Self {
        Self { bunker_id, exec_id, frames, next_seq: 0, deadline, drained }
    }

    /// What the command says first, or why it does not run.
    pub async fn started(&mut self) -> Result<Started, ErrorBody> {
        match self.next().await? {
            ExecEvent::Started(started) => Ok(started),
            event => {
                tracing::warn!(exec_id = %self.exec_id, ?event, "a command did not say it started");
                Err(broken_protocol())
            }
        }
    }

    /// The next event, or why there will be none. Cancel-safe.
    pub async fn next(&mut self) -> Result<ExecEvent, ErrorBody> {
        let deadline = self.deadline;
        let out_of_time = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            frame = self.frames.next() => frame?,
            () = out_of_time => {
                let message = "the bunker did not end the command at its time limit";
                return Err(ErrorBody::new(ErrorCode::BunkerLost, message));
            }
            () = self.drained.cancelled() => {
                let message = "the server shut down before the command ended";
                return Err(ErrorBody::new(ErrorCode::ShuttingDown, message));
            }
        };
        let Some(frame) = frame else {
            let message = "the bunker went away before the command ended";
            return Err(ErrorBody::new(ErrorCode::BunkerLost, message));
        };
        self.event(frame)
    }

    fn event(&mut self, frame: Frame) -> Result<ExecEvent, ErrorBody> {
        let unreadable = |error| ErrorBody::from(LinkError::Frame(error));
        match frame.kind {
            FrameKind::Stdout => Ok(self.output(OutputStream::Stdout, frame.payload)),
            FrameKind::Stderr => Ok(self.output(OutputStream::Stderr, frame.payload)),
            FrameKind::Started => {
                let started: ExecStarted = frame.parse().map_err(unreadable)?;
                self.next_seq = started.next_seq;
                Ok(ExecEvent::Started(Started { exec_id: self.exec_id, pid: started.pid }))
            }
            FrameKind::Gap => {
                let gap: OutputGap = frame.parse().map_err(unreadable)?;
                self.next_seq = gap.next_seq;
                Ok(ExecEvent::Gap(gap))
            }
            FrameKind::Exit => {
                let end: ExecEnd = frame.parse().map_err(unreadable)?;
                tracing::info!(
                    exec_id = %self.exec_id,
                    exit_code = end.exit_code,
                    duration_ms = end.duration_ms,
                    "a command ended"
                );
                Ok(ExecEvent::Exit(outcome(self.bunker_id, self.exec_id, end)))
            }
            FrameKind::Error => Err(frame.parse::<ErrorBody>().map_err(unreadable)?),
            FrameKind::Spec | FrameKind::Stdin | FrameKind::StdinEnd => {
                tracing::warn!(kind = ?frame.kind, "a worker sent a frame that is not its to send");
                Err(broken_protocol())
            }
        }
    }

    fn output(&mut self, stream: OutputStream, bytes: Bytes) -> ExecEvent {
        let seq = self.next_seq;
        self.next_seq = seq.saturating_add(1);
        ExecEvent::Output { stream, seq, bytes }
    }
}

fn broken_protocol() -> ErrorBody {
    ErrorBody::new(ErrorCode::BunkerLost, "the worker broke the protocol of exec streams")
}

//! One command, followed over the link.

use bytes::Bytes;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{ExecOutcome, Started},
    ids::ExecId,
};
use scaibunker_guest_protocol::{
    exec,
    frame::{Frame, FrameKind},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::limit::ExecPermit;
use crate::{
    domain::exec::signal_name,
    failure::chain,
    fleet::{ExecFrames, LinkError},
};

/// What a running command says. `Exit` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Started(Started),
    Stdout(Bytes),
    Stderr(Bytes),
    Exit(ExecOutcome),
}

/// A running command. Dropping it ends the command.
#[derive(Debug)]
pub struct ExecSession {
    exec_id: ExecId,
    frames: ExecFrames,
    deadline: Instant,
    drained: CancellationToken,
    _permit: ExecPermit,
}

impl ExecSession {
    pub(super) fn new(
        exec_id: ExecId,
        frames: ExecFrames,
        deadline: Instant,
        drained: CancellationToken,
        permit: ExecPermit,
    ) -> Self {
        Self { exec_id, frames, deadline, drained, _permit: permit }
    }

    /// The next event, or why there will be none. Cancel-safe.
    pub async fn next(&mut self) -> Result<ExecEvent, ErrorBody> {
        let frame = tokio::select! {
            frame = self.frames.next() => frame.map_err(|error| lost(&error))?,
            () = sleep_until(self.deadline) => {
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

    fn event(&self, frame: Frame) -> Result<ExecEvent, ErrorBody> {
        let unreadable = |error| lost(&LinkError::Frame(error));
        match frame.kind {
            FrameKind::Stdout => Ok(ExecEvent::Stdout(frame.payload)),
            FrameKind::Stderr => Ok(ExecEvent::Stderr(frame.payload)),
            FrameKind::Started => {
                let exec::Started { pid } = frame.parse().map_err(unreadable)?;
                Ok(ExecEvent::Started(Started { exec_id: self.exec_id, pid }))
            }
            FrameKind::Exit => {
                let exit: exec::Exit = frame.parse().map_err(unreadable)?;
                tracing::info!(
                    exec_id = %self.exec_id,
                    exit_code = exit.exit_code,
                    duration_ms = exit.duration_ms,
                    "a command ended"
                );
                Ok(ExecEvent::Exit(ExecOutcome {
                    exec_id: self.exec_id,
                    exit_code: exit.exit_code,
                    signal: exit.signal.map(signal_name),
                    timed_out: exit.timed_out,
                    oom_killed: exit.oom_killed,
                    truncated: false,
                    full_output_ref: None,
                    full_stderr_ref: None,
                    full_output_error: None,
                    duration_ms: exit.duration_ms,
                }))
            }
            FrameKind::Error => Err(frame.parse::<ErrorBody>().map_err(unreadable)?),
            FrameKind::Spec | FrameKind::Stdin | FrameKind::StdinEnd | FrameKind::Gap => {
                tracing::warn!(kind = ?frame.kind, "a worker sent a frame that is not its to send");
                let message = "the worker broke the protocol of exec streams";
                Err(ErrorBody::new(ErrorCode::BunkerLost, message))
            }
        }
    }
}

/// What a caller is told when the way to the command breaks.
pub(super) fn lost(error: &LinkError) -> ErrorBody {
    tracing::warn!(error = chain(error), "the way to a command broke");
    ErrorBody::new(ErrorCode::BunkerLost, format!("the command's bunker was lost: {error}"))
}

//! Following one command from its start to its end, whoever reads it.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::ExecMode,
    ids::BunkerId,
    worker::{ExecEnd, ExecReport, ExecState, KeptOutput},
};
use scaibunker_guest_protocol::{GuestError, GuestErrorKind, exec::Exit, frame::FrameKind};
use tokio::time::timeout;

use super::{
    Execs,
    exec::Exec,
    guest_answer::{GuestAnswer, Said},
    keeper::Keeper,
};
use crate::{
    activity::Working,
    bunker_state::{BunkerWatch, paused},
    channel::{GuestBody, GuestChannel, refusal},
};

/// How long after the session with a guest breaks its VM's end may take to be noticed.
pub const END_LIMIT: Duration = Duration::from_millis(1_500);

/// A command that is to be run.
pub struct Run {
    pub bunker_id: BunkerId,
    pub bunker: BunkerWatch,
    /// The bunker works until the command has ended.
    pub working: Working,
    pub execs: Arc<Execs>,
    pub exec: Arc<Exec>,
    pub channel: GuestChannel,
    /// The specification and what follows it.
    pub request: GuestBody,
    pub request_id: String,
    /// Where the whole of a long output goes.
    pub keeper: Option<Keeper>,
}

/// Why a command's frames stopped before its end.
enum Broken {
    /// Somebody or something asked for its end.
    Cancelled(ErrorBody),
    /// The agent would not run the command, and says why.
    Refused(GuestError),
    /// The session with the agent broke, or the agent broke the protocol.
    Session(String),
    /// The bunker ended.
    Lost(String),
}

/// What has come of a command's output.
#[derive(Default)]
struct Tally {
    stdout_bytes: u64,
    stderr_bytes: u64,
}

impl Run {
    /// Runs the command to its end, or to its bunker's.
    ///
    /// While the bunker is paused, the command stands still and nothing here ends it: only the
    /// guest limits its time, and a shell may be without a client for as long.
    pub async fn drive(mut self) {
        let (id, began, mut tally) = (self.bunker_id, Instant::now(), Tally::default());
        let (exec, watch) = (Arc::clone(&self.exec), self.bunker.clone());
        let mut bunker = watch.clone();
        let mut bunker_ended = std::pin::pin!(bunker.ended());
        // Whatever ends this first, the guest's stream goes with it, and the guest ends the
        // command.
        let followed = tokio::select! {
            followed = self.follow(&mut tally) => followed,
            why = exec.cancelled() => Err(Broken::Cancelled(why)),
            why = abandoned(&exec, watch.clone()) => Err(Broken::Cancelled(why)),
            () = paused_at_start(&exec, watch.clone()) => Err(Broken::Cancelled(paused(id))),
            reason = &mut bunker_ended => Err(Broken::Lost(reason)),
        };
        let state = match followed {
            Ok(exit) => ExecState::Exited { end: tally.end(exit, self.kept().await) },
            Err(Broken::Cancelled(error)) => ExecState::Failed { error },
            Err(Broken::Refused(error)) => ExecState::Failed { error: refused(&error) },
            Err(Broken::Lost(reason)) => ExecState::Failed { error: lost(id, &reason) },
            Err(Broken::Session(reason)) => {
                // The session breaks a moment before the VM's end is known, which is the better
                // reason.
                let reason = timeout(END_LIMIT, bunker_ended).await.unwrap_or(reason);
                ExecState::Failed { error: lost(id, &reason) }
            }
        };
        self.log(&state, began);
        if exec.mode == ExecMode::Detached {
            let ended_at = Some(Timestamp::now());
            self.execs.record(ExecReport { ended_at, state: state.clone(), ..exec.report() }).await;
        }
        exec.set_ended(state);
        self.execs.settle();
        drop(self.working);
        if let Some(keeper) = self.keeper.take() {
            // Nobody is told, but what the command said until then is kept.
            keeper.finish().await;
        }
    }

    async fn follow(&mut self, tally: &mut Tally) -> Result<Exit, Broken> {
        let session = |e: &(dyn std::error::Error + 'static)| Broken::Session(crate::chain(e));
        let request = std::mem::take(&mut self.request);
        let sent = self.channel.send(Method::POST, "/exec", request, &self.request_id);
        let response = sent.await.map_err(|e| session(&e))?;
        if response.status() != StatusCode::OK {
            return Err(Broken::Refused(refusal(response.into_body()).await));
        }
        let mut answer = GuestAnswer::new(response.into_body());
        loop {
            match answer.next().await.map_err(|e| session(&e))? {
                Said::Started(started) => begin(&self.execs, &self.exec, started.pid).await,
                Said::Output(frame) => {
                    tally.count(frame.kind, frame.payload.len());
                    if let Some(keeper) = &mut self.keeper {
                        keeper.push(frame.kind, &frame.payload).await;
                    }
                    self.exec.push(frame).await;
                }
                Said::Exit(exit) => return Ok(exit),
                Said::Error(error) => return Err(Broken::Refused(error)),
            }
        }
    }

    async fn kept(&mut self) -> KeptOutput {
        let Some(keeper) = self.keeper.take() else { return KeptOutput::default() };
        tokio::select! {
            kept = keeper.finish() => kept,
            why = self.exec.cancelled() => {
                KeptOutput { error: Some(why.message), ..KeptOutput::default() }
            }
        }
    }

    fn log(&self, state: &ExecState, began: Instant) {
        let (bunker_id, exec_id) = (self.bunker_id, self.exec.id);
        let duration_ms = began.elapsed().as_millis() as u64;
        match state {
            ExecState::Failed { error } if error.code != ErrorCode::ExecEnded => {
                tracing::warn!(%bunker_id, %exec_id, duration_ms, %error, "command failed");
            }
            ExecState::Failed { error } => {
                tracing::info!(%bunker_id, %exec_id, duration_ms, %error, "command cancelled");
            }
            _ => tracing::info!(%bunker_id, %exec_id, duration_ms, "command ended"),
        }
    }
}

/// Returns once a shell has been without a client for too long while its bunker ran.
async fn abandoned(exec: &Exec, mut bunker: BunkerWatch) -> ErrorBody {
    loop {
        tokio::select! {
            biased;
            () = bunker.paused() => {}
            why = exec.abandoned() => return why,
        }
        bunker.unpaused().await;
        exec.restart_linger();
    }
}

/// Returns if the bunker is paused before the command is known to run: nobody shall wait for a
/// command that may not even have begun.
async fn paused_at_start(exec: &Exec, mut bunker: BunkerWatch) {
    bunker.paused().await;
    if exec.is_started() {
        pending().await
    }
}

/// The command runs; a detached one is written down before anybody is told.
async fn begin(execs: &Execs, exec: &Exec, pid: u32) {
    if exec.mode == ExecMode::Detached {
        execs.record(ExecReport { pid: Some(pid), ..exec.report() }).await;
    }
    exec.set_started(pid);
}

impl Tally {
    fn count(&mut self, kind: FrameKind, bytes: usize) {
        match kind {
            FrameKind::Stdout => self.stdout_bytes += bytes as u64,
            _ => self.stderr_bytes += bytes as u64,
        }
    }

    fn end(&self, exit: Exit, kept: KeptOutput) -> ExecEnd {
        ExecEnd {
            exit_code: exit.exit_code,
            signal: exit.signal,
            timed_out: exit.timed_out,
            oom_killed: exit.oom_killed,
            duration_ms: exit.duration_ms,
            stdout_bytes: self.stdout_bytes,
            stderr_bytes: self.stderr_bytes,
            kept,
        }
    }
}

fn lost(id: BunkerId, reason: &str) -> ErrorBody {
    let message = format!("bunker {id} was lost while the command ran: {reason}");
    ErrorBody::new(ErrorCode::BunkerLost, message)
}

fn refused(error: &GuestError) -> ErrorBody {
    let code = match error.kind {
        GuestErrorKind::Invalid => ErrorCode::ValidationError,
        GuestErrorKind::Conflict => ErrorCode::BunkerNotRunning,
        _ => ErrorCode::ExecFailed,
    };
    ErrorBody::new(code, error.message.clone())
}

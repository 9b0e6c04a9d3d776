//! Running commands in bunkers.

mod limit;
mod session;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use scaibunker_api::{
    bunker::BunkerStatus,
    error::{ErrorBody, ErrorCode},
    exec::{ExecAnswer, ExecRequest, MAX_ANSWER_BYTES},
    ids::{BunkerId, ExecId},
};
use scaibunker_guest_protocol::frame::{Frame, FrameError, FrameKind, MAX_DATA_BYTES};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::limit::ExecLimit;
pub use self::session::{ExecEvent, ExecSession};
use crate::{
    bunkers::Bunkers,
    domain::{
        actor::Actor,
        exec::{self, PreparedExec},
        output::{Kept, encode},
    },
    failure::{Failure, chain},
    fleet::{Fleet, LinkError},
    store::Store,
};

/// Commands that run in one bunker at once, at most.
const MAX_EXECS_A_BUNKER: usize = 64;

/// The guest ends a command at its limit; one that does not within this time is beyond control.
const OUTER_BOUND: Duration = Duration::from_secs(15);

/// The service; one for the process.
pub struct Execs {
    store: Store,
    fleet: Arc<Fleet>,
    bunkers: Arc<Bunkers>,
    limit: ExecLimit,
    /// Cancelled when no command may be followed any longer.
    drained: CancellationToken,
}

impl Execs {
    /// A service on `store` and `fleet`.
    #[must_use]
    pub fn new(
        store: Store,
        fleet: Arc<Fleet>,
        bunkers: Arc<Bunkers>,
        drained: CancellationToken,
    ) -> Self {
        Self { store, fleet, bunkers, limit: ExecLimit::new(MAX_EXECS_A_BUNKER), drained }
    }

    /// Starts a command; dropping the session ends it.
    pub async fn open(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: ExecRequest,
    ) -> Result<ExecSession, Failure> {
        let prepared = exec::prepare(actor, request, ExecId::generate())?;
        let bunker = self.bunkers.get(actor, id).await?;
        if bunker.status() != BunkerStatus::Running {
            let status = bunker.status().as_str();
            let reason = bunker.life().status_reason.as_deref();
            let why = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let message = format!("the bunker is {status}{why}; commands need a running one");
            return Err(Failure::new(ErrorCode::BunkerNotRunning, message));
        }
        let Some(permit) = self.limit.take(id) else {
            return Err(ErrorBody {
                retry_after: Some(1),
                ..ErrorBody::new(
                    ErrorCode::RateLimited,
                    format!(
                        "{MAX_EXECS_A_BUNKER} commands run in this bunker; wait for one to end"
                    ),
                )
            }
            .into());
        };
        let Some(link) = self.fleet.link(bunker.worker_id) else {
            return Err(ErrorBody {
                retry_after: Some(2),
                ..ErrorBody::new(
                    ErrorCode::WorkerUnavailable,
                    "the bunker's worker is not linked at the moment; try again",
                )
            }
            .into());
        };
        self.store.touch_bunker(id, Timestamp::now()).await?;
        let exec_id = prepared.start.exec_id;
        let limit = Duration::from_secs(prepared.start.timeout_s.unwrap_or(0)) + OUTER_BOUND;
        let deadline = Instant::now() + limit;
        let input = frames_of(&prepared).map_err(|error| {
            tracing::error!(error = chain(&error), "a command does not fit into frames");
            ErrorBody::new(ErrorCode::Internal, "the command cannot be sent to the worker")
        })?;
        let request_id = actor.request_id.to_string();
        let opened = tokio::time::timeout_at(deadline, link.exec(id, input, &request_id)).await;
        match opened.unwrap_or(Err(LinkError::Silent(limit))) {
            Ok(frames) => {
                tracing::info!(%exec_id, "a command starts");
                let drained = self.drained.clone();
                Ok(ExecSession::new(exec_id, frames, deadline, drained, permit))
            }
            Err(LinkError::Refused(error)) if error.code == ErrorCode::NotFound => {
                let message = "the bunker's worker no longer holds it";
                Err(Failure::new(ErrorCode::BunkerNotRunning, message))
            }
            Err(LinkError::Refused(error)) => Err(error.into()),
            Err(error) => Err(session::lost(&error).into()),
        }
    }

    /// Follows a command to its end and keeps the beginning of its output.
    pub async fn collect(&self, mut session: ExecSession) -> Result<ExecAnswer, Failure> {
        let (mut stdout, mut stderr) = (Kept::new(MAX_ANSWER_BYTES), Kept::new(MAX_ANSWER_BYTES));
        loop {
            match session.next().await? {
                ExecEvent::Started(_) => {}
                ExecEvent::Stdout(bytes) => stdout.push(&bytes),
                ExecEvent::Stderr(bytes) => stderr.push(&bytes),
                ExecEvent::Exit(mut outcome) => {
                    outcome.truncated = stdout.is_truncated() || stderr.is_truncated();
                    let (encoding, stdout, stderr) = encode(&stdout, &stderr);
                    return Ok(ExecAnswer { outcome, stdout, stderr, encoding });
                }
            }
        }
    }
}

/// The whole input of a command: what to run, then all of its standard input.
fn frames_of(prepared: &PreparedExec) -> Result<Bytes, FrameError> {
    let mut input = BytesMut::from(&*Frame::json(FrameKind::Spec, &prepared.start)?.encode());
    for piece in prepared.stdin.chunks(MAX_DATA_BYTES) {
        let frame = Frame::data(FrameKind::Stdin, Bytes::copy_from_slice(piece));
        input.extend_from_slice(&frame.encode());
    }
    input.extend_from_slice(&Frame::data(FrameKind::StdinEnd, Bytes::new()).encode());
    Ok(input.freeze())
}

//! Commands and shells in bunkers. The workers own them; what is here asks and passes on.

mod input;
mod session;
mod shell;

use std::{sync::Arc, time::Duration};

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{
        Detached, ExecAnswer, ExecInput, ExecRecord, ExecRequest, ExecSignal, MAX_ANSWER_BYTES,
        Started,
    },
    ids::{BunkerId, ExecId},
    worker::SendSignal,
};
use scaibunker_guest_protocol::frame::FrameError;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, Span};

pub use self::{
    input::ShellInput,
    session::{ExecEvent, ExecSession, OutputStream},
    shell::{Shell, ShellControl},
};
use crate::{
    bunkers::Bunkers,
    domain::{
        actor::Actor,
        exec,
        exec_record::record,
        output::{Kept, encode},
        signal::signal_number,
    },
    failure::{Failure, chain},
    fleet::{ExecFrames, LinkError, RequestBody},
    metrics::Metrics,
};

/// The guest ends a command at its limit; one that does not within this time is beyond control.
const OUTER_BOUND: Duration = Duration::from_secs(15);
/// How long a worker may take to say that a command runs, or that it does not.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long the answer about a detached command waits for its input to be taken.
const FEED_LIMIT: Duration = Duration::from_secs(1);

/// The service; one for the process.
pub struct Execs {
    bunkers: Arc<Bunkers>,
    metrics: Arc<Metrics>,
    /// Input on its way to commands that nobody waits for.
    tasks: TaskTracker,
    /// Cancelled when no command may be followed any longer.
    drained: CancellationToken,
}

impl Execs {
    /// A service on `bunkers`.
    #[must_use]
    pub fn new(
        bunkers: Arc<Bunkers>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        drained: CancellationToken,
    ) -> Self {
        Self { bunkers, metrics, tasks, drained }
    }

    /// Starts a command; dropping the session ends it.
    pub async fn open(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: ExecRequest,
    ) -> Result<ExecSession, Failure> {
        let prepared = exec::prepare(actor, request, ExecId::generate())?;
        let link = self.bunkers.enter(actor, id).await?;
        let exec_id = prepared.start.exec_id;
        let limit = prepared.start.timeout_s.map(|s| Duration::from_secs(s) + OUTER_BOUND);
        let input = input::of_attached(&prepared).map_err(unwritable)?;
        let frames = opened(link.exec(id, input, &actor.request_id.to_string())).await?;
        self.metrics.execs.inc();
        tracing::info!(%exec_id, "a command starts");
        Ok(self.session(id, exec_id, frames, limit))
    }

    /// Starts a command, waits until it runs, and leaves it to itself.
    pub async fn detach(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: ExecRequest,
    ) -> Result<Detached, Failure> {
        let prepared = exec::prepare(actor, request, ExecId::generate())?;
        let link = self.bunkers.enter(actor, id).await?;
        let (exec_id, request_id) = (prepared.start.exec_id, actor.request_id.to_string());
        let input = input::of_detached(&prepared).map_err(unwritable)?;
        let frames = opened(link.exec(id, input, &request_id)).await?;
        let started = started(&mut self.session(id, exec_id, frames, None)).await?;
        self.metrics.execs.inc();
        tracing::info!(%exec_id, "a detached command starts");
        if !prepared.stdin.is_empty() {
            let input = input::of_bytes(&prepared.stdin, !prepared.is_input_open);
            let feeding = async move {
                if let Err(error) = link.feed(id, exec_id, input, &request_id).await {
                    let error = chain(&error);
                    tracing::info!(%exec_id, error, "a command did not take all of its input");
                }
            };
            let feeding = self.tasks.spawn(feeding.instrument(Span::current()));
            // Most take it at once, so that input sent later comes behind it; who does not read
            // shall not hold the answer up.
            let _ = tokio::time::timeout(FEED_LIMIT, feeding).await;
        }
        Ok(Detached { exec_id: started.exec_id, pid: started.pid })
    }

    /// Follows a command to its end and keeps the beginning of its output.
    pub async fn collect(&self, mut session: ExecSession) -> Result<ExecAnswer, Failure> {
        let (mut stdout, mut stderr) = (Kept::new(MAX_ANSWER_BYTES), Kept::new(MAX_ANSWER_BYTES));
        loop {
            match session.next().await? {
                ExecEvent::Output { stream: OutputStream::Stdout, bytes, .. } => {
                    stdout.push(&bytes);
                }
                ExecEvent::Output { stream: OutputStream::Stderr, bytes, .. } => {
                    stderr.push(&bytes);
                }
                ExecEvent::Started(_) | ExecEvent::Gap(_) => {}
                ExecEvent::Exit(outcome) => {
                    let (encoding, stdout, stderr) = encode(&stdout, &stderr);
                    return Ok(ExecAnswer { outcome, stdout, stderr, encoding });
                }
            }
        }
    }

    /// Joins a command, whoever follows it already.
    pub async fn follow(
        &self,
        actor: &Actor,
        id: BunkerId,
        exec_id: ExecId,
        from_seq: u64,
    ) -> Result<ExecSession, Failure> {
        let link = self.bunkers.enter(actor, id).await?;
        let request_id = actor.request_id.to_string();
        let attaching = link.attach(id, exec_id, from_seq, RequestBody::Empty, &request_id);
        let frames = opened(attaching).await?;
        Ok(self.session(id, exec_id, frames, None))
    }

    /// Every command the bunker runs or remembers, newest first.
    pub async fn list(&self, actor: &Actor, id: BunkerId) -> Result<Vec<ExecRecord>, Failure> {
        let link = self.bunkers.link(actor, id).await?;
        let mut reports = link.execs(id, &actor.request_id.to_string()).await?;
        reports.sort_by_key(|report| std::cmp::Reverse(report.exec_id));
        Ok(reports.into_iter().map(|report| record(id, report)).collect())
    }

    /// One command.
    pub async fn show(
        &self,
        actor: &Actor,
        id: BunkerId,
        exec_id: ExecId,
    ) -> Result<ExecRecord, Failure> {
        let link = self.bunkers.link(actor, id).await?;
        Ok(record(id, link.exec_report(id, exec_id, &actor.request_id.to_string()).await?))
    }

    /// Writes to a command's standard input; returns once the command has been given all of it.
    pub async fn feed(
        &self,
        actor: &Actor,
        id: BunkerId,
        exec_id: ExecId,
        request: ExecInput,
    ) -> Result<(), Failure> {
        let (bytes, is_last) = exec::prepare_input(request)?;
        let link = self.bunkers.enter(actor, id).await?;
        let input = input::of_bytes(&bytes, is_last);
        Ok(link.feed(id, exec_id, input, &actor.request_id.to_string()).await?)
    }

    /// Signals a command's process group.
    pub async fn signal(
        &self,
        actor: &Actor,
        id: BunkerId,
        exec_id: ExecId,
        request: ExecSignal,
    ) -> Result<(), Failure> {
        let signal = SendSignal { signal: signal_number(&request.signal)? };
        let link = self.bunkers.enter(actor, id).await?;
        Ok(link.signal(id, exec_id, signal, &actor.request_id.to_string()).await?)
    }

    /// Kills a command, if it still runs, and forgets it.
    pub async fn end(&self, actor: &Actor, id: BunkerId, exec_id: ExecId) -> Result<(), Failure> {
        let link = self.bunkers.enter(actor, id).await?;
        Ok(link.end_exec(id, exec_id, &actor.request_id.to_string()).await?)
    }

    fn session(
        &self,
        bunker_id: BunkerId,
        exec_id: ExecId,
        frames: ExecFrames,
        limit: Option<Duration>,
    ) -> ExecSession {
        let deadline = limit.map(|limit| Instant::now() + limit);
        ExecSession::new(bunker_id, exec_id, frames, deadline, self.drained.clone())
    }
}

fn unwritable(error: FrameError) -> ErrorBody {
    tracing::error!(error = chain(&error), "a command does not fit into frames");
    ErrorBody::new(ErrorCode::Internal, "the command cannot be sent to the worker")
}

async fn opened(
    opening: impl Future<Output = Result<ExecFrames, LinkError>>,
) -> Result<ExecFrames, ErrorBody> {
    let opened = tokio::time::timeout(START_LIMIT, opening).await;
    Ok(opened.unwrap_or(Err(LinkError::Silent(START_LIMIT)))?)
}

async fn started(session: &mut ExecSession) -> Result<Started, ErrorBody> {
    let started = tokio::time::timeout(START_LIMIT, session.started()).await;
    started.unwrap_or_else(|_| Err(LinkError::Silent(START_LIMIT).into()))
}

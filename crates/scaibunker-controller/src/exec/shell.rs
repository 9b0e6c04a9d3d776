//! Shells: commands in a terminal, which a client can leave and come back to.

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{ExecMode, SignalName},
    ids::{BunkerId, ExecId},
    worker::{ResizeTerminal, SendSignal},
};

use super::{ExecSession, Execs, ShellInput, input, opened, started, unwritable};
use crate::{
    domain::{
        actor::Actor,
        exec::{self, ShellRequest},
        signal::signal_number,
    },
    failure::Failure,
    fleet::{ExecFrames, Link, LinkError},
};

/// A shell that is followed.
pub struct Shell {
    pub session: ExecSession,
    pub input: ShellInput,
    pub control: ShellControl,
}

/// What can be asked about a shell beside its streams, so that it never waits behind input that
/// nobody reads.
#[derive(Debug, Clone)]
pub struct ShellControl {
    link: Link,
    bunker_id: BunkerId,
    pub shell_id: ExecId,
    request_id: String,
}

impl Execs {
    /// Starts a shell.
    pub async fn open_shell(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: ShellRequest,
    ) -> Result<Shell, Failure> {
        let start = exec::prepare_shell(actor, request, ExecId::generate())?;
        let shell_id = start.exec_id;
        let link = self.bunkers.enter(actor, id).await?;
        let (input, body) = input::of_shell(Some(&start)).map_err(unwritable)?;
        let request_id = actor.request_id.to_string();
        let frames = opened(link.exec(id, body, &request_id)).await?;
        self.metrics.execs.inc();
        tracing::info!(exec_id = %shell_id, "a shell starts");
        let control = ShellControl { link, bunker_id: id, shell_id, request_id };
        self.shell(frames, input, control).await
    }

    /// Goes back to a shell, and takes it over from whoever holds it.
    pub async fn reopen_shell(
        &self,
        actor: &Actor,
        id: BunkerId,
        shell_id: ExecId,
        size: Option<ResizeTerminal>,
    ) -> Result<Shell, Failure> {
        size.map_or(Ok(()), exec::check_size)?;
        let link = self.bunkers.enter(actor, id).await?;
        let request_id = actor.request_id.to_string();
        let report = link.exec_report(id, shell_id, &request_id).await?;
        if report.mode != ExecMode::Shell {
            let message = format!("{shell_id} is a command and no shell");
            return Err(Failure::new(ErrorCode::ExecNotFound, message));
        }
        let (input, body) = input::of_shell(None).map_err(unwritable)?;
        let frames = opened(link.attach(id, shell_id, 0, body, &request_id)).await?;
        let control = ShellControl { link, bunker_id: id, shell_id, request_id };
        let shell = self.shell(frames, input, control).await?;
        if let Some(size) = size {
            shell.control.resize(size).await?;
        }
        Ok(shell)
    }

    async fn shell(
        &self,
        frames: ExecFrames,
        input: ShellInput,
        control: ShellControl,
    ) -> Result<Shell, Failure> {
        let mut session = self.session(control.bunker_id, control.shell_id, frames, None);
        started(&mut session).await?;
        Ok(Shell { session, input, control })
    }
}

impl ShellControl {
    /// Tells the shell the size of its terminal.
    pub async fn resize(&self, size: ResizeTerminal) -> Result<(), ErrorBody> {
        exec::check_size(size)?;
        let Self { link, bunker_id, shell_id, request_id } = self;
        unless_ended(link.resize(*bunker_id, *shell_id, size, request_id).await)
    }

    /// Signals what runs in the shell.
    pub async fn signal(&self, signal: &SignalName) -> Result<(), ErrorBody> {
        let signal = SendSignal { signal: signal_number(signal)? };
        let Self { link, bunker_id, shell_id, request_id } = self;
        unless_ended(link.signal(*bunker_id, *shell_id, signal, request_id).await)
    }
}

/// A shell that has ended says so on its stream.
fn unless_ended(told: Result<(), LinkError>) -> Result<(), ErrorBody> {
    match told {
        Err(LinkError::Refused(error)) if error.code == ErrorCode::ExecEnded => Ok(()),
        told => Ok(told?),
    }
}

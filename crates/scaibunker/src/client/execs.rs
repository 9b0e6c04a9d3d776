//! Calls about commands.

use std::time::Duration;

use http::Method;
use scaibunker_api::{
    envelope::Envelope,
    exec::{Detached, ExecAnswer, ExecInput, ExecRecord, ExecRequest, ExecSignal, SignalName},
    ids::{BunkerId, ExecId},
};

use super::{ANSWER_LIMIT, Client, ClientError, ExecStream};

/// How long past a command's own time limit its answer may come.
const EXEC_GRACE: Duration = Duration::from_secs(60);

/// How long a command may leave its input unread.
const INPUT_LIMIT: Duration = Duration::from_secs(24 * 3600);

impl Client {
    /// Runs a command and returns its collected output.
    pub async fn exec(
        &self,
        id: BunkerId,
        request: &ExecRequest,
    ) -> Result<ExecAnswer, ClientError> {
        let path = format!("/bunkers/{id}/exec");
        let limit = Duration::from_secs(request.timeout_s).saturating_add(EXEC_GRACE);
        let answer = self.transport.json(Method::POST, &path, Some(request), limit).await?;
        Ok(answer.decode::<Envelope<ExecAnswer>>()?.data)
    }

    /// Runs a command whose output arrives while it runs; `request.stream` must be set. Dropping
    /// the stream cancels the command.
    pub async fn exec_stream(
        &self,
        id: BunkerId,
        request: &ExecRequest,
    ) -> Result<ExecStream, ClientError> {
        debug_assert!(request.stream, "the server answers with events only if asked to");
        let path = format!("/bunkers/{id}/exec");
        let response = self.transport.open(Method::POST, &path, Some(request)).await?;
        Ok(ExecStream::new(response))
    }

    /// Starts a command that outlives the call; `request.detach` must be set.
    pub async fn exec_detached(
        &self,
        id: BunkerId,
        request: &ExecRequest,
    ) -> Result<Detached, ClientError> {
        debug_assert!(request.detach, "the server would wait for the command's end");
        let path = format!("/bunkers/{id}/exec");
        let answer = self.transport.json(Method::POST, &path, Some(request), ANSWER_LIMIT).await?;
        Ok(answer.decode::<Envelope<Detached>>()?.data)
    }

    /// The commands that a bunker runs or remembers.
    pub async fn execs(&self, id: BunkerId) -> Result<Vec<ExecRecord>, ClientError> {
        self.every_page(&format!("/bunkers/{id}/execs?")).await
    }

    /// Where one command stands.
    pub async fn exec_record(
        &self,
        id: BunkerId,
        exec_id: ExecId,
    ) -> Result<ExecRecord, ClientError> {
        let answer = self.get(&format!("/bunkers/{id}/execs/{exec_id}")).await?;
        Ok(answer.decode::<Envelope<ExecRecord>>()?.data)
    }

    /// The output of a command from a sequence number on, until it ends. Dropping the stream
    /// leaves the command alone.
    pub async fn attach(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        from_seq: u64,
    ) -> Result<ExecStream, ClientError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}/stream?from_seq={from_seq}");
        let response = self.transport.open(Method::GET, &path, None::<&()>).await?;
        Ok(ExecStream::new(response))
    }

    /// Gives a command more input; answered once the command's side has taken it.
    pub async fn exec_input(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        input: &ExecInput,
    ) -> Result<(), ClientError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}/input");
        self.transport.json(Method::POST, &path, Some(input), INPUT_LIMIT).await?;
        Ok(())
    }

    /// Sends a signal to a command.
    pub async fn exec_signal(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        signal: SignalName,
    ) -> Result<(), ClientError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}/signal");
        let body = ExecSignal { signal };
        self.transport.json(Method::POST, &path, Some(&body), ANSWER_LIMIT).await?;
        Ok(())
    }
}

//! Calls on commands and shells.

use bytes::Bytes;
use http::Method;
use scaibunker_api::{
    ids::{BunkerId, ExecId},
    worker::{ExecReport, ResizeTerminal, SendSignal},
};
use scaibunker_guest_protocol::{frame::Frame, frame_reader::FrameReader};

use super::{AnswerBody, CALL_LIMIT, Link, LinkError, RequestBody, json_request, request};

/// The frames of a command. Dropping them gives the stream up, which cancels an attached command.
#[derive(Debug)]
pub struct ExecFrames(FrameReader<AnswerBody>);

impl ExecFrames {
    /// The next frame; `None` at the end of the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        Ok(self.0.next().await?)
    }
}

impl Link {
    /// Runs a command; `input` is its frames, `Spec` first.
    pub async fn exec(
        &self,
        id: BunkerId,
        input: RequestBody,
        request_id: &str,
    ) -> Result<ExecFrames, LinkError> {
        self.frames(&format!("/bunkers/{id}/exec"), input, request_id).await
    }

    /// Joins a command at the output frame `from_seq`; `input` is frames for its standard input.
    pub async fn attach(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        from_seq: u64,
        input: RequestBody,
        request_id: &str,
    ) -> Result<ExecFrames, LinkError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}/attach?from_seq={from_seq}");
        self.frames(&path, input, request_id).await
    }

    async fn frames(
        &self,
        path: &str,
        input: RequestBody,
        request_id: &str,
    ) -> Result<ExecFrames, LinkError> {
        let response = self.send(request(Method::POST, path, request_id, input)).await?;
        Ok(ExecFrames(FrameReader::new(response.into_body())))
    }

    /// Writes frames to a command's standard input; returns once it has taken all of them.
    pub async fn feed(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        input: Bytes,
        request_id: &str,
    ) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}/input");
        let request = request(Method::POST, &path, request_id, RequestBody::Whole(input));
        self.send(request).await.map(drop)
    }

    /// Every command the bunker runs or remembers, oldest first.
    pub async fn execs(
        &self,
        id: BunkerId,
        request_id: &str,
    ) -> Result<Vec<ExecReport>, LinkError> {
        let path = format!("/bunkers/{id}/execs");
        let request = request(Method::GET, &path, request_id, RequestBody::Empty);
        self.call(request, CALL_LIMIT).await
    }

    /// One command.
    pub async fn exec_report(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        request_id: &str,
    ) -> Result<ExecReport, LinkError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}");
        let request = request(Method::GET, &path, request_id, RequestBody::Empty);
        self.call(request, CALL_LIMIT).await
    }

    /// Signals a command's process group.
    pub async fn signal(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        signal: SendSignal,
        request_id: &str,
    ) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}/signal");
        self.tell(json_request(Method::POST, &path, request_id, &signal)?).await
    }

    /// Tells a shell the size of its terminal.
    pub async fn resize(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        size: ResizeTerminal,
        request_id: &str,
    ) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}/resize");
        self.tell(json_request(Method::POST, &path, request_id, &size)?).await
    }

    /// Kills a command's processes and makes the worker forget it.
    pub async fn end_exec(
        &self,
        id: BunkerId,
        exec_id: ExecId,
        request_id: &str,
    ) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}/execs/{exec_id}");
        self.tell(request(Method::DELETE, &path, request_id, RequestBody::Empty)).await
    }
}

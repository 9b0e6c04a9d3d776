//! The host's frames of one exec.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use scaibunker_guest_protocol::{
    exec::ExecSpec,
    frame::{Frame, FrameDecoder, FrameError, FrameKind},
};

use crate::error::AgentError;

/// Reads frames from a request's body.
#[derive(Debug)]
pub struct Frames {
    body: Incoming,
    decoder: FrameDecoder,
}

/// The stream cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Protocol(#[from] FrameError),
    #[error("the host gave the stream up")]
    Reset(#[source] hyper::Error),
    #[error("the host sent a {0:?} frame to a running command")]
    Unexpected(FrameKind),
}

impl Frames {
    pub fn new(body: Incoming) -> Self {
        Self { body, decoder: FrameDecoder::default() }
    }

    /// The next frame, `None` at the end of the body. More than one frame's bytes are never held.
    pub async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(part) => {
                    if let Ok(bytes) = part.map_err(StreamError::Reset)?.into_data() {
                        self.decoder.push(&bytes);
                    }
                }
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    }

    /// The first frame, which says what to run.
    pub async fn spec(&mut self) -> Result<ExecSpec, AgentError> {
        let invalid = |message: String| AgentError::Invalid(message);
        match self.next().await.map_err(|e| invalid(e.to_string()))? {
            Some(frame) if frame.kind == FrameKind::Spec => {
                frame.parse().map_err(|e| invalid(e.to_string()))
            }
            _ => Err(invalid("an exec starts with its specification".to_owned())),
        }
    }
}

//! Standard input as it comes over the link.

use axum::body::Body;
use bytes::BytesMut;
use futures_util::FutureExt as _;
use scaibunker_api::error::{ErrorBody, ErrorCode};
use scaibunker_guest_protocol::{
    frame::{Frame, FrameKind},
    frame_reader::FrameReader,
};

use crate::execs::Exec;

/// Input that goes to the guest together with the specification, at most.
const FIRST_BYTES: usize = 128 * 1024;

/// One frame of standard input.
pub(super) enum Piece {
    Data(Frame),
    /// Standard input ends here.
    End,
    /// The client sends no more; whether standard input ends with it is the command's matter.
    Over,
}

/// Reads frames of standard input.
pub(super) struct InputReader(FrameReader<Body>);

impl InputReader {
    pub fn new(body: Body) -> Self {
        Self(FrameReader::new(body))
    }

    /// The first frame of a command's stream.
    pub async fn spec(&mut self) -> Result<Frame, ErrorBody> {
        match self.0.next().await.map_err(|e| broken(&e))? {
            Some(frame) if frame.kind == FrameKind::Spec => Ok(frame),
            _ => Err(bad("an exec stream starts with what to run")),
        }
    }

    /// What comes next. Cancel-safe.
    pub async fn next(&mut self) -> Result<Piece, ErrorBody> {
        match self.0.next().await.map_err(|e| broken(&e))? {
            None => Ok(Piece::Over),
            Some(frame) => match frame.kind {
                FrameKind::Stdin => Ok(Piece::Data(frame)),
                FrameKind::StdinEnd => Ok(Piece::End),
                kind => Err(bad(format!("a {kind:?} frame is no standard input"))),
            },
        }
    }

    /// Puts what has arrived already behind `wire`; where it stops, if it does. Each write to a
    /// guest costs it more than all else it does for a short command.
    pub fn gather(&mut self, wire: &mut BytesMut) -> Result<Option<Piece>, ErrorBody> {
        while wire.len() < FIRST_BYTES {
            match self.next().now_or_never().transpose()? {
                None => return Ok(None),
                Some(Piece::Data(frame)) => wire.extend_from_slice(&frame.encode()),
                Some(stop) => return Ok(Some(stop)),
            }
        }
        Ok(None)
    }

    /// Feeds the command until the client sends no more; whether it ended standard input.
    pub async fn feed(&mut self, exec: &Exec) -> Result<bool, ErrorBody> {
        loop {
            match self.next().await? {
                Piece::Data(frame) => exec.feed(&frame).await?,
                Piece::End => {
                    exec.end_input().await;
                    return Ok(true);
                }
                Piece::Over => return Ok(false),
            }
        }
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> ErrorBody {
    bad(crate::chain(error))
}

fn bad(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::BadRequest, message)
}

//! What a guest says of a command, taken apart and checked before it goes on.

use bytes::Bytes;
use http_body::Body;
use scaibunker_guest_protocol::{
    GuestError,
    exec::{Exit, Started},
    frame::{Frame, FrameKind},
    frame_reader::{FrameReader, ReadError},
};

use crate::channel::printable;

/// One thing a guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The first, unless it is an error.
    Started(Started),
    /// Standard output or standard error.
    Output(Frame),
    /// The last.
    Exit(Exit),
    /// The last.
    Error(GuestError),
}

/// The guest cannot be followed further.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError<E: std::error::Error + 'static> {
    #[error("the session with the guest agent broke")]
    Read(#[from] ReadError<E>),
    #[error("the guest agent broke the protocol")]
    Json(#[from] scaibunker_guest_protocol::frame::FrameError),
    #[error("the guest agent sent a {0:?} frame out of turn")]
    OutOfTurn(FrameKind),
    #[error("the guest agent stopped answering")]
    Ended,
}

/// The answer of the guest's `POST /exec`.
#[derive(Debug)]
pub struct GuestAnswer<B> {
    frames: FrameReader<B>,
    has_started: bool,
}

impl<B> GuestAnswer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    pub fn new(body: B) -> Self {
        Self { frames: FrameReader::new(body), has_started: false }
    }

    /// What comes next. Cancel-safe.
    pub async fn next(&mut self) -> Result<Said, AnswerError<B::Error>> {
        let frame = self.frames.next().await?.ok_or(AnswerError::Ended)?;
        match (frame.kind, self.has_started) {
            (FrameKind::Stdout | FrameKind::Stderr, true) => Ok(Said::Output(frame)),
            (FrameKind::Started, false) => {
                self.has_started = true;
                Ok(Said::Started(frame.parse()?))
            }
            (FrameKind::Exit, true) => Ok(Said::Exit(frame.parse()?)),
            (FrameKind::Error, _) => {
                let GuestError { kind, message } = frame.parse()?;
                Ok(Said::Error(GuestError { kind, message: printable(&message) }))
            }
            (kind, _) => Err(AnswerError::OutOfTurn(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures_util::{FutureExt as _, stream};
    use http_body_util::StreamBody;
    use scaibunker_guest_protocol::GuestErrorKind;

    use super::*;

    fn answer(
        pieces: Vec<Bytes>,
    ) -> GuestAnswer<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let pieces = pieces.into_iter().map(|piece| Ok(http_body::Frame::data(piece)));
        GuestAnswer::new(StreamBody::new(stream::iter(pieces)))
    }

    fn all(wire: &[Frame]) -> Vec<Result<Said, String>> {
        let wire: Vec<u8> = wire.iter().flat_map(|frame| frame.encode()).collect();
        let mut answer = answer(vec![wire.into()]);
        let mut said = Vec::new();
        loop {
            let next = answer.next().now_or_never().unwrap().map_err(|e| e.to_string());
            let is_last = !matches!(next, Ok(Said::Started(_) | Said::Output(_)));
            said.push(next);
            if is_last {
                return said;
            }
        }
    }

    #[test]
    fn order_is_kept_and_enforced() {
        let started = Frame::json(FrameKind::Started, &Started { pid: 7 }).unwrap();
        let exit = Exit {
            exit_code: 3,
            signal: None,
            timed_out: false,
            oom_killed: false,
            duration_ms: 1,
        };
        let exited = Frame::json(FrameKind::Exit, &exit).unwrap();
        let output = Frame::data(FrameKind::Stdout, "hi".into());
        assert_eq!(
            all(&[started.clone(), output.clone(), exited.clone()]),
            [
                Ok(Said::Started(Started { pid: 7 })),
                Ok(Said::Output(output.clone())),
                Ok(Said::Exit(exit))
            ]
        );
        for early in [output, exited] {
            assert!(all(&[early])[0].as_ref().unwrap_err().contains("out of turn"));
        }
        assert!(all(&[started.clone(), started])[1].is_err());
        assert!(all(&[Frame::data(FrameKind::Gap, Bytes::new())])[0].is_err());
    }

    #[test]
    fn an_error_is_made_printable() {
        let error = GuestError { kind: GuestErrorKind::Invalid, message: "no\x1b[2Jcwd".into() };
        let frame = Frame::json(FrameKind::Error, &error).unwrap();
        let [Ok(Said::Error(said))] = &all(&[frame])[..] else { panic!("no error") };
        assert_eq!(said.message, "no [2Jcwd");
    }

    #[test]
    fn nothing_a_guest_sends_panics() {
        bolero::check!()
            .with_test_time(Duration::from_secs(1))
            .with_type::<Vec<Vec<u8>>>()
            .for_each(|pieces| {
                let mut answer = answer(pieces.iter().cloned().map(Bytes::from).collect());
                while let Some(Ok(Said::Started(_) | Said::Output(_))) =
                    answer.next().now_or_never()
                {}
            });
    }
}

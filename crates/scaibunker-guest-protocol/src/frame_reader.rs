//! Frames out of an HTTP body.

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt as _;

use crate::frame::{Frame, FrameDecoder, FrameError};

/// Reads frames from a body, and never holds more than one frame and one piece of the body.
#[derive(Debug)]
pub struct FrameReader<B> {
    body: B,
    decoder: FrameDecoder,
}

/// The stream cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E: std::error::Error + 'static> {
    #[error("the peer broke the protocol")]
    Protocol(#[from] FrameError),
    #[error("the stream was given up")]
    Body(#[source] E),
}

impl<B> FrameReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// Frames of `body`.
    pub fn new(body: B) -> Self {
        Self { body, decoder: FrameDecoder::default() }
    }

    /// The next frame; `None` at the end of the body. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadError<B::Error>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(piece) => {
                    if let Ok(bytes) = piece.map_err(ReadError::Body)?.into_data() {
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
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt as _, stream};
    use http_body_util::StreamBody;

    use super::*;
    use crate::frame::FrameKind;

    fn reader(
        pieces: Vec<Bytes>,
    ) -> FrameReader<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let pieces = pieces.into_iter().map(|piece| Ok(http_body::Frame::data(piece)));
        FrameReader::new(StreamBody::new(stream::iter(pieces)))
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let frame = Frame::data(FrameKind::Stdout, Bytes::from_static(b"hello"));
        let wire = [frame.encode(), frame.encode()].concat();
        let mut frames = reader(wire.chunks(7).map(Bytes::copy_from_slice).collect());
        for _ in 0..2 {
            assert_eq!(frames.next().now_or_never().unwrap().unwrap().unwrap(), frame);
        }
        assert!(frames.next().now_or_never().unwrap().unwrap().is_none());
    }

    #[test]
    fn a_body_that_ends_inside_a_frame_is_broken() {
        let wire = Frame::data(FrameKind::Stdout, Bytes::from_static(b"hello")).encode();
        let mut frames = reader(vec![wire.slice(..wire.len() - 1)]);
        let error = frames.next().now_or_never().unwrap().unwrap_err();
        assert!(matches!(error, ReadError::Protocol(FrameError::Truncated)));
    }
}

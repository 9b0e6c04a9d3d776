//! Frames of an exec stream: one byte of kind, four bytes of little-endian length, the payload.
//!
//! ```text
//! host → guest:  Spec  Stdin*  StdinEnd?
//! guest → host:  (Started (Stdout | Stderr)* Exit) | Error
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest payload of a data frame; a longer one is a protocol error.
pub const MAX_DATA_BYTES: usize = 64 * 1024;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON [`crate::exec::ExecSpec`]; on the link a `StartExec`.
    Spec = 1,
    /// Bytes for standard input.
    Stdin = 2,
    /// Standard input ends here; empty.
    StdinEnd = 3,
    /// JSON [`crate::exec::Started`]; on the link an `ExecStarted`.
    Started = 16,
    /// Bytes of standard output.
    Stdout = 17,
    /// Bytes of standard error.
    Stderr = 18,
    /// JSON [`crate::exec::Exit`]; on the link an `ExecEnd`. The last frame.
    Exit = 19,
    /// JSON [`crate::GuestError`]; on the link an error body. The last frame.
    Error = 20,
    /// On the link only: output is missing here; JSON `OutputGap`.
    Gap = 21,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Spec,
            Self::Stdin,
            Self::StdinEnd,
            Self::Started,
            Self::Stdout,
            Self::Stderr,
            Self::Exit,
            Self::Error,
            Self::Gap,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    fn max_payload(self) -> usize {
        match self {
            Self::Spec => crate::MAX_JSON_BYTES,
            _ => MAX_DATA_BYTES,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub payload: Bytes,
}

/// The peer broke the protocol; the stream cannot be read further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    #[error("frame of {length} bytes exceeds the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("stream ended inside a frame")]
    Truncated,
    #[error("frame payload is not the expected JSON: {0}")]
    Json(String),
}

impl Frame {
    /// A frame with a raw payload, which must be at most [`MAX_DATA_BYTES`] long.
    #[must_use]
    pub fn data(kind: FrameKind, payload: Bytes) -> Self {
        Self { kind, payload }
    }

    /// A frame whose payload is `value` as JSON.
    pub fn json<T: serde::Serialize>(kind: FrameKind, value: &T) -> Result<Self, FrameError> {
        let payload = serde_json::to_vec(value).map_err(|e| FrameError::Json(e.to_string()))?;
        Ok(Self { kind, payload: payload.into() })
    }

    /// Reads the payload as JSON.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.payload).map_err(|e| FrameError::Json(e.to_string()))
    }

    /// What goes on the wire before a payload of `length` bytes.
    #[must_use]
    pub fn header(kind: FrameKind, length: usize) -> [u8; HEADER_BYTES] {
        // Both limits on a payload are far below u32::MAX.
        let [a, b, c, d] = (length as u32).to_le_bytes();
        [kind as u8, a, b, c, d]
    }

    /// The bytes that go on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.payload.len());
        out.put_slice(&Self::header(self.kind, self.payload.len()));
        out.put_slice(&self.payload);
        out.freeze()
    }
}

/// Takes frames out of a byte stream that arrives in pieces of any size.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Adds bytes as they came from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are pushed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let kind =
            FrameKind::from_byte(self.buffer[0]).ok_or(FrameError::UnknownKind(self.buffer[0]))?;
        let length = (&self.buffer[1..HEADER_BYTES]).get_u32_le() as usize;
        let limit = kind.max_payload();
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(Frame { kind, payload: self.buffer.split_to(length).freeze() }))
    }

    /// Call at the end of the stream: a frame cut short is an error.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        (
            prop_oneof![
                Just(FrameKind::Stdin),
                Just(FrameKind::Stdout),
                Just(FrameKind::Stderr),
                Just(FrameKind::Spec)
            ],
            proptest::collection::vec(any::<u8>(), 0..2048),
        )
            .prop_map(|(kind, payload)| Frame::data(kind, payload.into()))
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(
            frames in proptest::collection::vec(any_frame(), 0..8),
            piece in 1usize..97,
        ) {
            let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode()).collect();
            let (mut decoder, mut seen) = (FrameDecoder::default(), Vec::new());
            for bytes in wire.chunks(piece) {
                decoder.push(bytes);
                while let Some(frame) = decoder.next_frame()? {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(decoder.finish(), Ok(()));
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }

    #[test]
    fn an_announced_length_past_the_limit_is_refused_before_it_arrives() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&[FrameKind::Stdout as u8, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
    }
}

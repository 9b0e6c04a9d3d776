//! Changes of files, as they happen.

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use scaibunker_api::error::{ErrorBody, ErrorCode};
use scaibunker_guest_protocol::files::Change;
use tokio_util::sync::CancellationToken;

use crate::fleet::AnswerBody;

/// Longest line that is taken; a change has one path, three bytes for each of its own.
const MAX_LINE_BYTES: usize = 32 * 1024;

/// What is watched. Dropping it ends the watching.
#[derive(Debug)]
pub struct Watch {
    body: AnswerBody,
    buffer: BytesMut,
    draining: CancellationToken,
}

impl Watch {
    pub(super) fn new(body: AnswerBody, draining: CancellationToken) -> Self {
        Self { body, buffer: BytesMut::new(), draining }
    }

    /// The next change, or why there will be none. Cancel-safe.
    pub async fn next(&mut self) -> Result<Change, ErrorBody> {
        loop {
            if let Some(line) = next_line(&mut self.buffer)? {
                return serde_json::from_slice(&line).map_err(|_| unreadable());
            }
            let piece = tokio::select! {
                piece = self.body.frame() => piece,
                () = self.draining.cancelled() => {
                    let message = "the server is shutting down";
                    return Err(ErrorBody::new(ErrorCode::ShuttingDown, message));
                }
            };
            match piece {
                Some(Ok(piece)) => {
                    if let Ok(bytes) = piece.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None => {
                    let message = "the bunker went away while its files were watched";
                    return Err(ErrorBody::new(ErrorCode::BunkerLost, message));
                }
            }
        }
    }
}

/// Takes a whole line out of `buffer`.
fn next_line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, ErrorBody> {
    match buffer.iter().take(MAX_LINE_BYTES + 1).position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = buffer.split_to(end);
            buffer.advance(1);
            Ok(Some(line))
        }
        None if buffer.len() > MAX_LINE_BYTES => Err(unreadable()),
        None => Ok(None),
    }
}

fn unreadable() -> ErrorBody {
    ErrorBody::new(ErrorCode::FileFailed, "the bunker's word about its files cannot be read")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_come_out_as_they_went_in(
            lines in proptest::collection::vec("[^\n]{0,40}", 0..10), piece in 1usize..50,
        ) {
            let wire: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for bytes in wire.as_bytes().chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Some(line) = next_line(&mut buffer).unwrap() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(seen, lines);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = BytesMut::from(&vec![b'x'; MAX_LINE_BYTES + 1][..]);
        assert!(next_line(&mut buffer).is_err());
    }
}

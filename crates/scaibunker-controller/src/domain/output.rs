//! A command's output: bounded where it is kept, text where it is text.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use scaibunker_api::exec::Encoding;

/// The beginning of one stream; what comes after the limit is only known to have been there.
#[derive(Debug)]
pub struct Kept {
    bytes: BytesMut,
    limit: usize,
    truncated: bool,
}

impl Kept {
    /// Keeps at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { bytes: BytesMut::new(), limit, truncated: false }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        self.truncated |= piece.len() > room;
    }

    /// The kept bytes as text; a character that the limit has cut is left out.
    fn as_text(&self) -> Option<&str> {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => Some(text),
            Err(error) if self.truncated && error.error_len().is_none() => {
                std::str::from_utf8(&self.bytes[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        }
    }
}

/// Both streams in the encoding that fits both.
#[must_use]
pub fn encode(stdout: &Kept, stderr: &Kept) -> (Encoding, String, String) {
    match (stdout.as_text(), stderr.as_text()) {
        (Some(stdout), Some(stderr)) => (Encoding::Utf8, stdout.to_owned(), stderr.to_owned()),
        _ => (Encoding::Base64, STANDARD.encode(&stdout.bytes), STANDARD.encode(&stderr.bytes)),
    }
}

/// A piece of a stream as it goes into an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Binary(Bytes),
}

/// Cuts a stream between characters: an unfinished one at the end of a piece waits for the next,
/// so that text stays text wherever the guest's writes happen to end.
#[derive(Debug, Default)]
pub struct TextSplitter {
    /// Up to three bytes that may begin a character.
    held: Vec<u8>,
}

impl TextSplitter {
    /// Takes the next piece; `None` when all of it has to wait.
    pub fn push(&mut self, bytes: Bytes) -> Option<Piece> {
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(&bytes);
            Bytes::from(joined)
        };
        let ready = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Some(Piece::Binary(bytes)),
        };
        self.held = bytes[ready..].to_vec();
        if escapes_badly(&bytes[..ready]) {
            return Some(Piece::Binary(bytes.slice(..ready)));
        }
        (ready > 0).then(|| Piece::Text(String::from_utf8_lossy(&bytes[..ready]).into_owned()))
    }

    /// What is still held at the end of the stream.
    pub fn finish(&mut self) -> Option<Piece> {
        let held = std::mem::take(&mut self.held);
        (!held.is_empty()).then(|| Piece::Binary(held.into()))
    }
}

/// Whether a long piece is mostly characters that JSON writes as six, such as NUL: that is hardly
/// text, and base64 carries it in a quarter of the room.
fn escapes_badly(bytes: &[u8]) -> bool {
    const LONG: usize = 1024;
    let is_six = |byte: &&u8| **byte < 0x20 && !b"\x08\t\n\x0c\r".contains(*byte);
    bytes.len() >= LONG && bytes.iter().filter(is_six).count() > bytes.len() / 8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(bytes: &[u8], piece: usize) -> Vec<Piece> {
        let mut splitter = TextSplitter::default();
        let mut pieces: Vec<_> = bytes
            .chunks(piece)
            .filter_map(|chunk| splitter.push(Bytes::copy_from_slice(chunk)))
            .collect();
        pieces.extend(splitter.finish());
        pieces
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        let bytes = |piece: &Piece| match piece {
            Piece::Text(text) => text.as_bytes().to_vec(),
            Piece::Binary(bytes) => bytes.to_vec(),
        };
        pieces.iter().flat_map(bytes).collect()
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(bytes: Vec<u8>, piece in 1usize..9) {
            prop_assert_eq!(joined(&split(&bytes, piece)), bytes);
        }

        #[test]
        fn text_stays_text_wherever_it_is_cut(text in ".{0,40}", piece in 1usize..9) {
            let pieces = split(text.as_bytes(), piece);
            prop_assert!(pieces.iter().all(|piece| matches!(piece, Piece::Text(_))));
        }

        #[test]
        fn kept_text_is_text_and_within_the_limit(text in ".{0,40}", limit in 0usize..60) {
            let mut kept = Kept::new(limit);
            for chunk in text.as_bytes().chunks(3) {
                kept.push(chunk);
            }
            let (encoding, stdout, _) = encode(&kept, &Kept::new(0));
            prop_assert_eq!(encoding, Encoding::Utf8);
            prop_assert!(text.starts_with(&stdout) && stdout.len() <= limit);
            prop_assert_eq!(kept.truncated, text.len() > limit);
        }
    }

    #[test]
    fn zeros_are_binary_and_coloured_text_is_text() {
        let zeros = split(&[0; 4096], 4096);
        assert!(matches!(&zeros[..], [Piece::Binary(bytes)] if bytes.len() == 4096));
        let coloured = "\x1b[31mred and more of it\x1b[0m\n".repeat(100);
        assert!(matches!(&split(coloured.as_bytes(), 4096)[..], [Piece::Text(_)]));
    }

    #[test]
    fn one_binary_stream_makes_both_base64() {
        let (mut stdout, mut stderr) = (Kept::new(10), Kept::new(10));
        stdout.push(b"text");
        stderr.push(b"\xff");
        let encoded = encode(&stdout, &stderr);
        assert_eq!(encoded, (Encoding::Base64, "dGV4dA==".to_owned(), "/w==".to_owned()));
    }

    #[test]
    fn a_character_that_never_ends_is_binary() {
        assert_eq!(
            split(b"a\xe2\x82", 8),
            [Piece::Text("a".to_owned()), Piece::Binary(Bytes::from_static(b"\xe2\x82")),]
        );
        let mut kept = Kept::new(10);
        kept.push(b"a\xe2\x82");
        assert_eq!(encode(&kept, &Kept::new(0)).0, Encoding::Base64);
    }
}

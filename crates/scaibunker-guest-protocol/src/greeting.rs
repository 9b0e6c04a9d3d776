//! How a session on the port begins.
//!
//! The port is one byte stream that knows no connections: what either side wrote to a dead session
//! may still come out of it. So the host opens each session with a greeting that holds a random
//! nonce, and the agent returns it. The agent drops what it reads before a greeting, the host
//! what it reads before its own greeting's echo; after these, both speak HTTP/2.

/// Starts every greeting. As the start of an HTTP/2 frame it would announce one of 5 MiB, far more
/// than the agent allows, so between frames it can only be the next session's greeting.
const MAGIC: [u8; 16] = *b"SCAIBUNKER-HELLO";

/// Bytes of a greeting.
pub const GREETING_BYTES: usize = MAGIC.len() + 16;

/// Opens one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting([u8; GREETING_BYTES]);

impl Greeting {
    /// A greeting nobody can tell beforehand, if `nonce` is random.
    #[must_use]
    pub fn new(nonce: [u8; 16]) -> Self {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        bytes[MAGIC.len()..].copy_from_slice(&nonce);
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a greeting may start at the start of `bytes`.
    #[must_use]
    pub fn opens(bytes: &[u8]) -> bool {
        let count = bytes.len().min(MAGIC.len());
        count > 0 && bytes[..count] == MAGIC[..count]
    }

    /// The last whole greeting in `bytes`, with what follows it; else how many bytes at the start
    /// cannot belong to a greeting that is still arriving.
    pub fn find_last(bytes: &[u8]) -> Result<(Self, &[u8]), usize> {
        let starts = bytes.windows(MAGIC.len()).rposition(|window| window == MAGIC);
        match starts.map(|start| bytes[start..].split_first_chunk()) {
            Some(Some((greeting, rest))) => Ok((Self(*greeting), rest)),
            Some(None) => Err(starts.unwrap_or(0)),
            None => Err(bytes.len().saturating_sub(MAGIC.len() - 1)),
        }
    }

    /// Where in `bytes` this greeting ends.
    #[must_use]
    pub fn end_in(&self, bytes: &[u8]) -> Option<usize> {
        let start = bytes.windows(GREETING_BYTES).position(|window| window == self.0)?;
        Some(start + GREETING_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_greeting_is_found_after_anything_in_any_pieces(
            before in proptest::collection::vec(any::<u8>(), 0..200),
            nonce: [u8; 16],
            piece in 1usize..64,
        ) {
            let greeting = Greeting::new(nonce);
            let wire = [&before, greeting.as_bytes(), b"rest"].concat();
            let mut held = Vec::new();
            for bytes in wire[..before.len() + GREETING_BYTES].chunks(piece) {
                held.extend_from_slice(bytes);
                if let Err(useless) = Greeting::find_last(&held) {
                    held.drain(..useless);
                    prop_assert!(held.len() < GREETING_BYTES + piece);
                }
            }
            prop_assert_eq!(Greeting::find_last(&held), Ok((greeting, &b""[..])));
            prop_assert_eq!(greeting.end_in(&wire), Some(before.len() + GREETING_BYTES));
        }

        #[test]
        fn the_last_of_several_counts(old: [u8; 16], new: [u8; 16]) {
            let (old, new) = (Greeting::new(old), Greeting::new(new));
            let wire = [old.as_bytes(), b"abandoned", new.as_bytes(), b"live"].concat();
            prop_assert_eq!(Greeting::find_last(&wire), Ok((new, &b"live"[..])));
            let half = [old.as_bytes(), &new.as_bytes()[..20]].concat();
            prop_assert_eq!(Greeting::find_last(&half), Err(GREETING_BYTES));
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = Greeting::find_last(&bytes);
            let _ = Greeting::opens(&bytes);
        }
    }

    #[test]
    fn its_start_is_no_frame_the_agent_would_take() {
        let [a, b, c] = [MAGIC[0], MAGIC[1], MAGIC[2]].map(u32::from);
        assert!((a << 16 | b << 8 | c) > 1 << 20);
    }
}

//! Bytes between an HTTP body and a thread, in batches: a thread that is woken for each piece
//! costs more than the piece.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::body::CutOff;

/// Bytes and pieces of an incoming body in one batch.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_PIECES: usize = 64;

/// Batches on their way to a thread.
const QUEUED_BATCHES: usize = 2;

/// Bytes of one piece on its way out.
pub const PIECE_BYTES: usize = 128 * 1024;

/// Pieces on their way out.
const QUEUED_PIECES: usize = 3;

/// A part of an incoming body.
#[derive(Debug)]
enum Batch {
    Bytes(Vec<Bytes>),
    /// The whole body has come. A channel that closes without it is a body that broke off.
    End,
}

/// A channel for an incoming body.
pub fn incoming() -> (BodySender, BodyReader) {
    let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
    (
        BodySender(sender),
        BodyReader { batches, current: Bytes::new(), rest: Vec::new(), at_end: false },
    )
}

/// The HTTP side of an incoming body.
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<Batch>);

impl BodySender {
    /// Passes `body` on until its end, until it breaks off, or until nobody reads.
    pub async fn feed(self, mut body: Incoming) {
        let (mut batch, mut length) = (Vec::new(), 0);
        while let Some(piece) = body.frame().await {
            let Ok(piece) = piece else { return };
            let Ok(bytes) = piece.into_data() else { continue };
            length += bytes.len();
            batch.push(bytes);
            if length >= BATCH_BYTES || batch.len() >= BATCH_PIECES {
                let full = std::mem::take(&mut batch);
                length = 0;
                if self.0.send(Batch::Bytes(full)).await.is_err() {
                    return;
                }
            }
        }
        if !batch.is_empty() && self.0.send(Batch::Bytes(batch)).await.is_err() {
            return;
        }
        // A reader that has gone wants no end.
        let _ = self.0.send(Batch::End).await;
    }
}

/// The thread's side of an incoming body; reading blocks.
#[derive(Debug)]
pub struct BodyReader {
    batches: mpsc::Receiver<Batch>,
    current: Bytes,
    /// What comes after `current`, last first.
    rest: Vec<Bytes>,
    at_end: bool,
}

impl BodyReader {
    /// The next pieces, in order; `None` at the end of the whole body.
    pub fn next_batch(&mut self) -> io::Result<Option<Vec<Bytes>>> {
        if self.at_end {
            return Ok(None);
        }
        match self.batches.blocking_recv() {
            Some(Batch::Bytes(pieces)) => Ok(Some(pieces)),
            Some(Batch::End) => {
                self.at_end = true;
                Ok(None)
            }
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body broke off")),
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if let Some(next) = self.rest.pop() {
                self.current = next;
            } else if let Some(pieces) = self.next_batch()? {
                self.rest = pieces;
                self.rest.reverse();
            } else {
                return Ok(0);
            }
        }
        let count = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..count]);
        Ok(count)
    }
}

#[cfg(test)]
impl BodyReader {
    /// A body of these pieces, which breaks off after them unless it is whole.
    pub fn of(pieces: &[&[u8]], is_whole: bool) -> Self {
        let (sender, batches) = mpsc::channel(2);
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        sender.try_send(Batch::Bytes(pieces)).unwrap();
        if is_whole {
            sender.try_send(Batch::End).unwrap();
        }
        Self { batches, current: Bytes::new(), rest: Vec::new(), at_end: false }
    }
}

/// The thread's side of an outgoing body; writing blocks.
#[derive(Debug)]
pub struct BodyWriter {
    pieces: mpsc::Sender<Result<Bytes, CutOff>>,
    gathered: BytesMut,
}

/// A channel for an outgoing body.
pub fn outgoing() -> (BodyWriter, mpsc::Receiver<Result<Bytes, CutOff>>) {
    let (pieces, receiver) = mpsc::channel(QUEUED_PIECES);
    (BodyWriter { pieces, gathered: BytesMut::new() }, receiver)
}

impl BodyWriter {
    /// Sends a piece; fails when the host has given the body up.
    pub fn send(&self, piece: Bytes) -> io::Result<()> {
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the body as one that is not whole.
    pub fn cut_off(&self) {
        // A host that has given the body up needs no word.
        let _ = self.pieces.blocking_send(Err(CutOff));
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(PIECE_BYTES);
        }
        let count = bytes.len().min(PIECE_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..count]);
        if self.gathered.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.gathered).freeze();
        self.send(piece)
    }
}

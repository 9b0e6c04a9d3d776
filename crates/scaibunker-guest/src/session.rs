//! One connection of the host, cut out of a port that knows no connections.
//!
//! Bytes of a dead connection may still be in the port when the next one begins, and a quick
//! reconnection passes unnoticed by `read`. Both are told by the [`Greeting`]: a session starts
//! with one, and a greeting where a frame should start is the next session's.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::io::Errno;
use scaibunker_guest_protocol::greeting::Greeting;
use tokio::io::{Interest, unix::AsyncFd};

use crate::{port::Port, watch};

/// The driver's buffers are one page each, and a read returns at most one of them.
const CHUNK_BYTES: usize = 4096;

/// What a session read of its successor's first bytes.
#[derive(Debug, Clone, Default)]
pub struct Carry(Arc<Mutex<BytesMut>>);

impl Carry {
    fn take(&self) -> BytesMut {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

/// Bytes of the HTTP/2 preface, which precedes the first frame.
const PREFACE_BYTES: usize = 24;

/// Waits for the host and its greeting, and returns the greeting.
pub async fn accept(port: &Port, carry: &Carry) -> io::Result<PortStream> {
    loop {
        let io = watch(port.connected().await?, Interest::READABLE | Interest::WRITABLE)?;
        let Some((greeting, received)) = find_greeting(&io, carry.take()).await? else { continue };
        if write_all(&io, greeting.as_bytes()).await.is_ok() {
            return Ok(PortStream {
                io,
                received,
                frames: FrameTracker { skip: PREFACE_BYTES, ..FrameTracker::default() },
                carry: carry.clone(),
                has_ended: false,
            });
        }
    }
}

/// Reads all that has arrived, up to a greeting; `None` when the host goes before it sent one.
async fn find_greeting(
    io: &AsyncFd<OwnedFd>,
    start: BytesMut,
) -> io::Result<Option<(Greeting, BytesMut)>> {
    let mut received = start;
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        match rustix::io::read(io.get_ref(), &mut chunk[..]) {
            Ok(0) => return Ok(None),
            Ok(count) => received.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match Greeting::find_last(&received) {
                Ok((greeting, rest)) => return Ok(Some((greeting, BytesMut::from(rest)))),
                Err(_) => io.readable().await?.clear_ready(),
            },
            Err(error) => return Err(error.into()),
        }
        if let Err(useless) = Greeting::find_last(&received) {
            received.advance(useless);
        }
    }
}

async fn write_all(io: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io.get_ref(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => io.writable().await?.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Follows frame boundaries in a stream of HTTP/2 frames.
#[derive(Debug, Default)]
struct FrameTracker {
    /// Bytes of the current frame still to come, once its length is known.
    skip: usize,
    length: [u8; 3],
    length_seen: usize,
}

impl FrameTracker {
    /// Bytes of a frame's header after its length.
    const REST_OF_HEADER: usize = 6;

    fn is_at_boundary(&self) -> bool {
        self.skip == 0 && self.length_seen == 0
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.length[self.length_seen] = first;
            self.length_seen += 1;
            bytes = rest;
            if self.length_seen == self.length.len() {
                let [a, b, c] = self.length.map(usize::from);
                self.skip = (a << 16 | b << 8 | c) + Self::REST_OF_HEADER;
                self.length_seen = 0;
            }
        }
    }
}

/// The byte stream of one connection.
#[derive(Debug)]
pub struct PortStream {
    io: AsyncFd<OwnedFd>,
    /// Read from the port and not handed on yet.
    received: BytesMut,
    frames: FrameTracker,
    carry: Carry,
    has_ended: bool,
}

impl PortStream {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let mut guard = ready!(self.io.poll_read_ready(cx))?;
            match rustix::io::read(self.io.get_ref(), &mut chunk[..]) {
                Ok(0) => self.has_ended = true,
                Ok(count) if self.frames.is_at_boundary() && Greeting::opens(&chunk[..count]) => {
                    self.carry.put(&chunk[..count]);
                    self.has_ended = true;
                }
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    continue;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl Read for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.received.is_empty() && !this.has_ended {
            ready!(this.poll_fill(cx))?;
        }
        let count = this.received.len().min(buf.remaining());
        this.frames.advance(&this.received[..count]);
        buf.put_slice(&this.received[..count]);
        this.received.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl Write for PortStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            // What an ended session still has to say must not reach the next one's host.
            if self.has_ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let mut guard = ready!(self.io.poll_write_ready(cx))?;
            match rustix::io::write(self.io.get_ref(), buf) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, 0, 0, 0, 0, 0, 1];
        frame.resize(frame.len() + length, 7);
        frame
    }

    #[test]
    fn boundaries_are_found_at_any_split() {
        let wire: Vec<u8> = [frame(0), frame(300), frame(1)].concat();
        let ends = [0, 9, 9 + 309, 9 + 309 + 10];
        for piece in [1, 2, 3, 7, 400] {
            let (mut tracker, mut at) = (FrameTracker::default(), 0);
            for bytes in wire.chunks(piece) {
                assert_eq!(tracker.is_at_boundary(), ends.contains(&at), "at {at}");
                tracker.advance(bytes);
                at += bytes.len();
            }
            assert!(tracker.is_at_boundary());
        }
    }
}

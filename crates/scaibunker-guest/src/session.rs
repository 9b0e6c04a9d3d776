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

impl Read for PortStream {
    /// Reads until `buf` is full or nothing more is there: the driver hands out one page at a
    /// time, and the HTTP/2 decoder works best on large pieces.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, received, frames, carry, has_ended } = &mut *self;
        if !received.is_empty() {
            let count = received.len().min(buf.remaining());
            frames.advance(&received[..count]);
            buf.put_slice(&received[..count]);
            received.advance(count);
            return Poll::Ready(Ok(()));
        }
        let room = buf.remaining();
        while buf.remaining() == room && room > 0 && !*has_ended {
            let mut ready = ready!(io.poll_read_ready(cx))?;
            while buf.remaining() > 0 && !*has_ended {
                // SAFETY: written to by the kernel alone.
                let space = unsafe { buf.as_mut() };
                match rustix::io::read(io.get_ref(), space) {
                    Ok(([], _)) => *has_ended = true,
                    Ok((chunk, _)) if frames.is_at_boundary() && Greeting::opens(chunk) => {
                        carry.put(chunk);
                        *has_ended = true;
                    }
                    Ok((chunk, _)) => {
                        frames.advance(chunk);
                        let count = chunk.len();
                        // SAFETY: the kernel has written that many.
                        unsafe { buf.advance(count) };
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
        }
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
    fn hostile_bytes_are_survived_in_any_pieces() {
        bolero::check!()
            .with_type::<(Vec<u8>, u8)>()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|(bytes, piece)| {
                let (mut whole, mut pieces) = (FrameTracker::default(), FrameTracker::default());
                whole.advance(bytes);
                for chunk in bytes.chunks(usize::from(*piece).max(1)) {
                    pieces.advance(chunk);
                }
                assert_eq!(whole.is_at_boundary(), pieces.is_at_boundary());
                assert_eq!(whole.skip, pieces.skip);
                if let Ok((greeting, rest)) = Greeting::find_last(bytes) {
                    assert!(
                        greeting.end_in(bytes).is_some_and(|end| end <= bytes.len() - rest.len())
                    );
                }
            });
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

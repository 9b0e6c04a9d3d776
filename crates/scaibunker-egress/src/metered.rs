//! A connection whose bytes are counted and held to the bunker's bandwidth, for a library to use.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use crate::bunker::Open;

/// At most this is written at once, so that a slow bunker's connections take turns.
const PIECE_BYTES: usize = 16 * 1024;

/// The other side of a bunker's connection.
pub struct Metered {
    stream: TcpStream,
    open: Open,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    pub fn new(stream: TcpStream, open: Open) -> Self {
        Self { stream, open, wait: None }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.open.received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        let piece = &buf[..buf.len().min(PIECE_BYTES)];
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, piece))?;
        let wait = self.open.sent(count);
        self.wait = (!wait.is_zero()).then(|| Box::pin(tokio::time::sleep(wait)));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! A command's standard streams, on the agent's side.

use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use rustix::{
    fs::{OFlags, fchown, fcntl_setfl},
    io::{Errno, ioctl_fionread},
    pipe::{PipeFlags, pipe_with},
    thread::{Gid, Uid},
};
use scaibunker_guest_protocol::frame::{Frame, FrameKind, HEADER_BYTES};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use super::spawn::ChildStreams;
use crate::{accounts::Account, watch};

/// Most bytes of output in one frame.
const CHUNK_BYTES: usize = 32 * 1024;

/// The agent's ends of all three.
#[derive(Debug)]
pub struct Streams {
    pub stdin: Input,
    pub stdout: Output,
    pub stderr: Output,
}

/// Makes the pipes. The command's user owns them, so that it can open `/dev/stderr`.
pub fn pipes(account: &Account) -> io::Result<(Streams, ChildStreams)> {
    let (stdin, to_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    if account.uid != 0 {
        let owner = (Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)));
        for fd in [&stdin, &stdout, &stderr] {
            fchown(fd, owner.0, owner.1)?;
        }
    }
    let streams = Streams {
        stdin: Input { fd: Some(non_blocking(to_stdin, Interest::WRITABLE)?) },
        stdout: Output::new(from_stdout, FrameKind::Stdout)?,
        stderr: Output::new(from_stderr, FrameKind::Stderr)?,
    };
    Ok((streams, ChildStreams { stdin, stdout, stderr }))
}

fn non_blocking(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    watch(fd, interest)
}

/// The writing end of standard input.
#[derive(Debug)]
pub struct Input {
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Input {
    /// Writes everything, or drops it when the command reads no more.
    pub async fn write_all(&mut self, mut bytes: Bytes) {
        while let (Some(fd), false) = (&self.fd, bytes.is_empty()) {
            let Ok(mut ready) = fd.writable().await else { return self.close() };
            match rustix::io::write(fd, &bytes) {
                Ok(count) => drop(bytes.split_to(count)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => {
                    drop(ready);
                    self.close();
                }
            }
        }
    }

    /// The command reads the end of the file.
    pub fn close(&mut self) {
        self.fd = None;
    }
}

/// The reading end of standard output or standard error.
#[derive(Debug)]
pub struct Output {
    fd: AsyncFd<OwnedFd>,
    kind: FrameKind,
    at_end: AtomicBool,
}

impl Output {
    fn new(fd: OwnedFd, kind: FrameKind) -> io::Result<Self> {
        let fd = non_blocking(fd, Interest::READABLE)?;
        Ok(Self { fd, kind, at_end: AtomicBool::new(false) })
    }

    /// Sends what arrives until the end of the file, or until the receiver goes, and counts
    /// chunks in `chunks`. Can be dropped at any point without losing a byte.
    pub async fn pump(&self, to: &mpsc::Sender<Bytes>, chunks: &AtomicU64) {
        while !self.at_end.load(Ordering::Relaxed) {
            let Ok(mut ready) = self.fd.readable().await else { return };
            let Ok(place) = to.reserve().await else { return };
            match self.read(CHUNK_BYTES) {
                Ok(Some(frame)) => {
                    chunks.fetch_add(1, Ordering::Relaxed);
                    place.send(frame);
                }
                Ok(None) => return,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Sends what is in the pipe now.
    pub async fn flush(&self, to: &mpsc::Sender<Bytes>) {
        let waiting = ioctl_fionread(&self.fd).unwrap_or(0);
        let mut left = usize::try_from(waiting).unwrap_or(usize::MAX);
        while left > 0 {
            let Ok(place) = to.reserve().await else { return };
            match self.read(left.min(CHUNK_BYTES)) {
                Ok(Some(frame)) => {
                    left = left.saturating_sub(frame.len() - HEADER_BYTES);
                    place.send(frame);
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// A frame of what is there; `None` at the end of the file.
    fn read(&self, most: usize) -> Result<Option<Bytes>, Errno> {
        let mut frame = Vec::with_capacity(HEADER_BYTES + most);
        frame.extend_from_slice(&[0; HEADER_BYTES]);
        let count = rustix::io::read(&self.fd, rustix::buffer::spare_capacity(&mut frame))?;
        if count == 0 {
            self.at_end.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        frame[..HEADER_BYTES].copy_from_slice(&Frame::header(self.kind, count));
        Ok(Some(frame.into()))
    }

    /// Reads and forgets until the end of the file, so that what still writes neither blocks nor
    /// dies of a broken pipe.
    pub async fn discard(self) {
        let mut buffer = Vec::with_capacity(4096);
        while !self.at_end.load(Ordering::Relaxed) {
            let Ok(mut ready) = self.fd.readable().await else { return };
            buffer.clear();
            match rustix::io::read(&self.fd, rustix::buffer::spare_capacity(&mut buffer)) {
                Ok(0) => return,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }
}

//! A command's standard streams, on the agent's side: three pipes, or one terminal.

use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use rustix::{
    fs::{OFlags, fchown, fcntl_setfl},
    io::{Errno, ioctl_fionread},
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    termios::{LocalModes, SpecialCodeIndex, tcgetattr},
    thread::{Gid, Uid},
};
use scaibunker_guest_protocol::frame::{Frame, FrameKind, HEADER_BYTES, MAX_DATA_BYTES};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use super::spawn::ChildStreams;
use crate::{accounts::Account, watch};

/// Most bytes of output in one frame.
const CHUNK_BYTES: usize = MAX_DATA_BYTES;

/// What the command can write before the agent reads. More than the kernel's 64 KiB, so that both
/// work for longer before they have to wait for each other.
const OUTPUT_PIPE_BYTES: usize = 256 * 1024;

/// In a terminal's settings: no character does this.
const NO_CHARACTER: u8 = 0;

/// The agent's ends of all three.
#[derive(Debug)]
pub struct Streams {
    pub stdin: Input,
    pub output: Outputs,
}

/// Standard output, and standard error where it is another stream.
#[derive(Debug)]
pub struct Outputs {
    pub stdout: Output,
    pub stderr: Option<Output>,
}

/// Makes the pipes. The command's user owns them, so that it can open `/dev/stderr`.
pub fn pipes(account: &Account) -> io::Result<(Streams, ChildStreams)> {
    let (stdin, to_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    // A smaller pipe is slower, and as good.
    let _ = fcntl_setpipe_size(&from_stdout, OUTPUT_PIPE_BYTES);
    if account.uid != 0 {
        let owner = (Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)));
        for fd in [&stdin, &stdout, &stderr] {
            fchown(fd, owner.0, owner.1)?;
        }
    }
    let streams = Streams {
        stdin: Input::Pipe(non_blocking(to_stdin, Interest::WRITABLE)?),
        output: Outputs {
            stdout: Output::new(from_stdout, FrameKind::Stdout)?,
            stderr: Some(Output::new(from_stderr, FrameKind::Stderr)?),
        },
    };
    Ok((streams, ChildStreams { stdin, stdout, stderr, is_terminal: false }))
}

/// The same three streams as a terminal, which `terminal` is the agent's end of.
pub fn of_terminal(terminal: OwnedFd, device: OwnedFd) -> io::Result<(Streams, ChildStreams)> {
    let streams = Streams {
        stdin: Input::Terminal {
            fd: non_blocking(terminal.try_clone()?, Interest::WRITABLE)?,
            is_line_open: false,
        },
        output: Outputs { stdout: Output::new(terminal, FrameKind::Stdout)?, stderr: None },
    };
    let (stdin, stdout) = (device.try_clone()?, device.try_clone()?);
    Ok((streams, ChildStreams { stdin, stdout, stderr: device, is_terminal: true }))
}

fn non_blocking(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    watch(fd, interest)
}

/// The writing end of standard input.
#[derive(Debug)]
pub enum Input {
    Pipe(AsyncFd<OwnedFd>),
    Terminal {
        fd: AsyncFd<OwnedFd>,
        /// Whether something was written after the last line's end.
        is_line_open: bool,
    },
    Closed,
}

impl Input {
    /// Writes everything, or drops it when the command reads no more.
    pub async fn write_all(&mut self, mut bytes: Bytes) {
        let fd = match self {
            Self::Pipe(fd) => fd,
            Self::Terminal { fd, is_line_open } => {
                *is_line_open = bytes.last().map_or(*is_line_open, |last| !b"\r\n".contains(last));
                fd
            }
            Self::Closed => return,
        };
        let mut can_write = true;
        while can_write && !bytes.is_empty() {
            let Ok(mut ready) = fd.writable().await else { break };
            match rustix::io::write(fd.get_ref(), &bytes) {
                Ok(count) => drop(bytes.split_to(count)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => can_write = false,
            }
        }
        if !bytes.is_empty() {
            self.close();
        }
    }

    /// Has the command read the end of the file. A terminal has none: its user types a character
    /// instead, and the line discipline makes an end of it, or passes it on.
    pub async fn end(&mut self) {
        if let Self::Terminal { fd, is_line_open } = self
            && let Ok(settings) = tcgetattr(fd.get_ref())
        {
            let character = settings.special_codes[SpecialCodeIndex::VEOF];
            let in_lines = settings.local_modes.contains(LocalModes::ICANON);
            // In an open line the first one only hands that line on.
            let count = match character {
                NO_CHARACTER => 0,
                _ if in_lines && *is_line_open => 2,
                _ => 1,
            };
            self.write_all(Bytes::from(vec![character; count])).await;
        }
        self.close();
    }

    /// Lets go of the command's input.
    pub fn close(&mut self) {
        *self = Self::Closed;
    }
}

impl Outputs {
    /// [`Output::pump`] for both.
    pub async fn pump(&self, to: &mpsc::Sender<Bytes>, chunks: &AtomicU64) {
        match &self.stderr {
            Some(stderr) => {
                tokio::join!(self.stdout.pump(to, chunks), stderr.pump(to, chunks));
            }
            None => self.stdout.pump(to, chunks).await,
        }
    }

    /// [`Output::flush`] for both.
    pub async fn flush(&self, to: &mpsc::Sender<Bytes>) {
        match &self.stderr {
            Some(stderr) => {
                tokio::join!(self.stdout.flush(to), stderr.flush(to));
            }
            None => self.stdout.flush(to).await,
        }
    }

    /// [`Output::discard`] for both pipes. A terminal is taken away, as when its window is closed.
    pub async fn discard(self) {
        if let Some(stderr) = self.stderr {
            tokio::join!(self.stdout.discard(), stderr.discard());
        }
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
    async fn pump(&self, to: &mpsc::Sender<Bytes>, chunks: &AtomicU64) {
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
                Err(_) => {
                    // A terminal that nobody has open any more is read like this.
                    self.at_end.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Sends what has been written by now.
    async fn flush(&self, to: &mpsc::Sender<Bytes>) {
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
        // The host may be slow and the pieces small: they must not hold the room of large ones.
        if frame.len() < frame.capacity() / 2 {
            frame.shrink_to_fit();
        }
        frame[..HEADER_BYTES].copy_from_slice(&Frame::header(self.kind, count));
        Ok(Some(frame.into()))
    }

    /// Reads and forgets until the end of the file, so that what still writes neither blocks nor
    /// dies of a broken pipe.
    async fn discard(self) {
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

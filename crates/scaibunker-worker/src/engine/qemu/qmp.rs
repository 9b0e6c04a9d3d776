//! QEMU's control protocol: one JSON object a line, a greeting first, events in between.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest},
    net::UnixStream,
    time::timeout,
};

use crate::engine::EngineError;

/// QEMU answers in microseconds; one that does not within this is lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A connection in command mode.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

fn io_failed(source: io::Error) -> EngineError {
    EngineError::Io { what: "talk to the VMM", source }
}

impl Qmp {
    /// Reads the greeting and enters command mode.
    pub async fn connect(stream: UnixStream) -> Result<Self, EngineError> {
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.read_line().await?;
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    pub async fn execute(
        &mut self,
        command: &'static str,
        args: Value,
    ) -> Result<Value, EngineError> {
        self.send(command, args, &[]).await
    }

    /// Gives QEMU a copy of the descriptor under `name`, for `fd:<name>` in a later command.
    pub async fn pass_fd(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), EngineError> {
        self.send("getfd", json!({ "fdname": name }), &[fd]).await.map(drop)
    }

    /// Gives QEMU a copy of the descriptor for `/dev/fdset/<set>`, with the rights that it is open with.
    pub async fn add_fd(&mut self, set: u32, fd: BorrowedFd<'_>) -> Result<(), EngineError> {
        self.send("add-fd", json!({ "fdset-id": set }), &[fd]).await.map(drop)
    }

    async fn send(
        &mut self,
        command: &'static str,
        args: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, EngineError> {
        let exchange = async {
            let mut line = json!({ "execute": command, "arguments": args }).to_string();
            line.push('\n');
            self.write(line.as_bytes(), fds).await.map_err(io_failed)?;
            loop {
                let mut answer = self.read_line().await?;
                if let Some(result) = answer.get_mut("return") {
                    return Ok(result.take());
                }
                if let Some(error) = answer.get("error") {
                    let message = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                    return Err(EngineError::Refused { command, message });
                }
            }
        };
        timeout(ANSWER_LIMIT, exchange).await.unwrap_or_else(|_| {
            let limit_s = ANSWER_LIMIT.as_secs();
            Err(EngineError::Timeout { what: "control the VMM", limit_s, hint: String::new() })
        })
    }

    async fn write(&mut self, mut bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let socket = self.stream.get_ref();
        let mut fds = fds;
        while !bytes.is_empty() {
            socket.writable().await?;
            let sent = socket.try_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() {
                    ancillary.push(SendAncillaryMessage::ScmRights(fds));
                }
                let iov = [IoSlice::new(bytes)];
                Ok(sendmsg(socket.as_fd(), &iov, &mut ancillary, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(count) => {
                    bytes = &bytes[count..];
                    fds = &[];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read_line(&mut self) -> Result<Value, EngineError> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .await
            .map_err(io_failed)?;
        if line.is_empty() {
            return Err(io_failed(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|e| EngineError::Protocol(e.to_string()))
    }
}

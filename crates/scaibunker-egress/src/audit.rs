//! The audit log of one bunker, on its way to the object store.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, PoisonError},
};

use scaibunker_api::egress::EgressEvent;

/// What may wait to be taken away.
const MAX_WAITING_BYTES: u64 = 64 << 20;

/// Of what `st_blocks` counts.
const BLOCK_BYTES: u64 = 512;

/// Writes events to a file that the worker has opened and takes away piece by piece. What is in it
/// survives both processes.
#[derive(Debug)]
pub struct AuditLog(Mutex<Log>);

#[derive(Debug)]
struct Log {
    file: File,
    /// Whether the last line was cut off, by a full disk.
    is_torn: bool,
}

impl AuditLog {
    /// Appends to the file, which has been opened for that.
    pub fn new(file: File) -> Self {
        Self(Mutex::new(Log { file, is_torn: false }))
    }

    /// Writes one line. What cannot be written down must not happen.
    pub fn write(&self, event: &EgressEvent) -> io::Result<()> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.file.metadata()?.blocks() * BLOCK_BYTES > MAX_WAITING_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut line = if log.is_torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        let written = log.file.write_all(&line);
        log.is_torn = written.is_err();
        written
    }
}

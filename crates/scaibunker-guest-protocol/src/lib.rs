//! What the worker and the guest agent say to each other over the channel.
//!
//! The channel is HTTP/2 on a virtio-serial port named [`PORT_NAME`], after a [`greeting`]; the agent serves:
//!
//! | route | does |
//! | --- | --- |
//! | `POST /prepare` | [`identity::Prepare`] → mounts the disks, takes a first identity; once, before the template is kept; 204 |
//! | `POST /identify` | [`identity::Identity`] → new entropy, clock and names; 204 |
//! | `POST /clock` | [`identity::SetClock`] → the wall clock; 204 |
//! | `POST /freeze` | everything is written to the disk, and nothing more until `/thaw`, or for 10 s; 204 |
//! | `POST /thaw` | 204; 409 if it was not frozen (any more) |
//! | `POST /exec` | exec frames both ways, see [`frame`] |
//! | `POST /execs/{id}/signal` | [`exec::SendSignal`] → the command's process group; 204 |
//! | `POST /execs/{id}/resize` | [`exec::TerminalSize`] → the command's terminal; 204 |
//! | `…/files…` | see [`files`] |
//! | `GET /log` | the agent's own log lines, newline-delimited JSON ([`log::LogLine`]), without end |
//!
//! A failure is [`GuestError`] as JSON with status 4xx or 5xx. Nothing the guest says is trusted
//! by the host: every frame and every body is bounded.

pub mod exec;
pub mod files;
pub mod frame;
pub mod frame_reader;
pub mod greeting;
pub mod identity;
pub mod log;
pub mod network;

use serde::{Deserialize, Serialize};

/// Name of the virtio-serial port that carries the channel.
pub const PORT_NAME: &str = "scaibunker.agent";

/// Name of the read-only disk with the image, as its virtio serial number.
pub const BASE_DISK_SERIAL: &str = "base";

/// Name of the bunker's own writable disk, as its virtio serial number.
pub const SCRATCH_DISK_SERIAL: &str = "scratch";

/// Largest JSON body either side reads, in bytes.
pub const MAX_JSON_BYTES: usize = 2 * 1024 * 1024;

/// What kind of failure it is, and so whose fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestErrorKind {
    /// The request can never work in this bunker: no such user, no such working directory.
    Invalid,
    /// The request comes at the wrong time: not prepared yet, prepared already, an id in use.
    Conflict,
    /// No such file, directory or running command.
    NotFound,
    /// The target exists already.
    Exists,
    IsADirectory,
    NotADirectory,
    DirectoryNotEmpty,
    /// A device, pipe or socket where a file was expected.
    NotARegularFile,
    /// The user the call acts as may not do this.
    AccessDenied,
    /// The path is on a read-only file system, or one that takes no files.
    ReadOnly,
    /// The bunker's disk or quota is full, or the file would be too large for it.
    NoSpace,
    /// Too many symbolic links on the way.
    SymlinkLoop,
    NameTooLong,
    /// In use, such as a mount point.
    Busy,
    /// The byte range starts behind the end of the file.
    RangeNotSatisfiable,
    /// The guest could not do it.
    #[default]
    Failed,
}

/// Why the agent could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct GuestError {
    #[serde(default)]
    pub kind: GuestErrorKind,
    pub message: String,
}

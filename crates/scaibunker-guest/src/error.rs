//! Why the agent could not do something.

use std::{error::Error, io};

use http::StatusCode;
use rustix::io::Errno;
use scaibunker_guest_protocol::{GuestError, GuestErrorKind};

/// A failure, with the side it is to be blamed on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The request can never work.
    #[error("{0}")]
    Invalid(String),
    /// The agent has no such route.
    #[error("{0}")]
    Unknown(String),
    /// The request comes at the wrong time.
    #[error("{0}")]
    Conflict(String),
    /// The request cannot be served, for a reason of its own kind.
    #[error("{message}")]
    Refused { kind: GuestErrorKind, message: String },
    /// The kernel refused a call on the caller's path.
    #[error("cannot {what}")]
    File { what: String, source: io::Error },
    /// The kernel refused.
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
}

impl AgentError {
    /// For `map_err`: what was tried when the kernel refused.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }

    /// For `map_err`: what was tried on a path of the caller's when the kernel refused.
    pub fn file<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::File { what: what.into(), source: source.into() }
    }

    /// A refusal of the given kind.
    pub fn refused(kind: GuestErrorKind, message: impl Into<String>) -> Self {
        Self::Refused { kind, message: message.into() }
    }

    /// The message and all its causes on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Whose fault it is.
    pub fn kind(&self) -> GuestErrorKind {
        match self {
            Self::Invalid(_) | Self::Unknown(_) => GuestErrorKind::Invalid,
            Self::Conflict(_) => GuestErrorKind::Conflict,
            Self::Refused { kind, .. } => *kind,
            Self::File { source, .. } => file_error_kind(source),
            Self::Io { .. } => GuestErrorKind::Failed,
        }
    }

    /// The status of an answer with this error.
    pub fn status(&self) -> StatusCode {
        if matches!(self, Self::Unknown(_)) {
            return StatusCode::NOT_FOUND;
        }
        match self.kind() {
            GuestErrorKind::Invalid
            | GuestErrorKind::IsADirectory
            | GuestErrorKind::NotADirectory
            | GuestErrorKind::NotARegularFile
            | GuestErrorKind::SymlinkLoop
            | GuestErrorKind::NameTooLong => StatusCode::BAD_REQUEST,
            GuestErrorKind::AccessDenied | GuestErrorKind::ReadOnly => StatusCode::FORBIDDEN,
            GuestErrorKind::NotFound => StatusCode::NOT_FOUND,
            GuestErrorKind::Conflict
            | GuestErrorKind::Exists
            | GuestErrorKind::DirectoryNotEmpty
            | GuestErrorKind::Busy => StatusCode::CONFLICT,
            GuestErrorKind::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            GuestErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            GuestErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// As it goes to the host.
    pub fn to_guest_error(&self) -> GuestError {
        GuestError { kind: self.kind(), message: self.chain() }
    }
}

fn file_error_kind(error: &io::Error) -> GuestErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => GuestErrorKind::NotFound,
        Some(Errno::EXIST) => GuestErrorKind::Exists,
        Some(Errno::ISDIR) => GuestErrorKind::IsADirectory,
        Some(Errno::NOTDIR) => GuestErrorKind::NotADirectory,
        Some(Errno::NOTEMPTY) => GuestErrorKind::DirectoryNotEmpty,
        Some(Errno::ACCESS | Errno::PERM) => GuestErrorKind::AccessDenied,
        Some(Errno::ROFS) => GuestErrorKind::ReadOnly,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => GuestErrorKind::NoSpace,
        Some(Errno::LOOP) => GuestErrorKind::SymlinkLoop,
        Some(Errno::NAMETOOLONG) => GuestErrorKind::NameTooLong,
        Some(Errno::BUSY | Errno::TXTBSY | Errno::AGAIN) => GuestErrorKind::Busy,
        Some(Errno::XDEV | Errno::INVAL) => GuestErrorKind::Invalid,
        Some(Errno::NXIO | Errno::NODEV) => GuestErrorKind::NotARegularFile,
        _ => GuestErrorKind::Failed,
    }
}

//! Why the agent could not do something.

use std::{error::Error, io};

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
    /// The kernel refused.
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
}

impl AgentError {
    /// For `map_err`: what was tried when the kernel refused.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
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

    /// As it goes to the host.
    pub fn to_guest_error(&self) -> GuestError {
        let kind = match self {
            Self::Invalid(_) | Self::Unknown(_) => GuestErrorKind::Invalid,
            Self::Conflict(_) => GuestErrorKind::Conflict,
            Self::Io { .. } => GuestErrorKind::Failed,
        };
        GuestError { kind, message: self.chain() }
    }
}

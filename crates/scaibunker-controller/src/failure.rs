//! What a service answers when it does not do what it was asked.

pub use scaibunker_api::error::chain;
use scaibunker_api::error::{ErrorBody, ErrorCode};

use crate::{domain::placement::NoPlace, fleet::LinkError, ledger::LedgerError, store::StoreError};

/// A call to a service failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The caller is told this, word for word.
    #[error(transparent)]
    Refused(#[from] ErrorBody),
    /// The caller is told that something broke; the log has the cause.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Failure {
    /// A refusal without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused(ErrorBody::new(code, message))
    }
}

impl From<NoPlace> for Failure {
    fn from(reason: NoPlace) -> Self {
        Self::Refused(reason.into())
    }
}

/// Something that requests need is away for a moment.
pub fn not_ready(message: &str) -> ErrorBody {
    let error = ErrorBody::new(ErrorCode::NotReady, message);
    ErrorBody { retry_after: Some(2), ..error }
}

/// Without its ledger a controller cannot know what is used, so it gives nothing out.
impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        tracing::error!(error = chain(&error), "the ledger failed a request");
        Self::Refused(not_ready("quotas cannot be checked at the moment; try again shortly"))
    }
}

/// What the caller is told when a worker does not do what it was asked for a running bunker.
impl From<LinkError> for ErrorBody {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(error) if error.code == ErrorCode::NotFound => {
                let message = "the bunker's worker no longer holds it";
                Self::new(ErrorCode::BunkerNotRunning, message)
            }
            LinkError::Refused(error) => error,
            error => {
                tracing::warn!(error = chain(&error), "the way to a bunker broke");
                let message = format!("the bunker was lost while the request ran: {error}");
                Self::new(ErrorCode::BunkerLost, message)
            }
        }
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::Refused(error.into())
    }
}

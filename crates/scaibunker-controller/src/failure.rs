//! What a service answers when it does not do what it was asked.

pub use scaibunker_api::error::chain;
use scaibunker_api::error::{ErrorBody, ErrorCode};

use crate::{domain::placement::NoPlace, store::StoreError};

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

//! What a service answers when it does not do what it was asked.

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

/// An error and all its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

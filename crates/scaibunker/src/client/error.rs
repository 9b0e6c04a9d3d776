//! What can go wrong with a call.

use std::{error::Error as StdError, fmt};

use http::StatusCode;
use scaibunker_api::error::ErrorDetail;
use serde::Deserialize;

/// A call that did not bring the answer it was made for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made.
    #[error(
        "cannot reach the server at {base}: {reason}; {}",
        if *is_local { "start it with ./scripts/up" } else { "check --url, SCAIBUNKER_URL or the login" }
    )]
    Unreachable { base: String, is_local: bool, reason: String },
    /// No answer within the time that every answer of its kind should take.
    #[error("the server did not answer within {limit_s} s; its log says what it is waiting for")]
    TooSlow { limit_s: u64 },
    /// The connection broke, or went silent, before the answer was complete.
    #[error("the connection to the server broke: {reason}{}", shown(request_id.as_deref()))]
    Interrupted { reason: String, request_id: Option<String> },
    /// The server answered with an error.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer is not what the contract says.
    #[error("unexpected answer from the server: {reason}{}", shown(request_id.as_deref()))]
    Unexpected { reason: String, request_id: Option<String> },
    /// The TLS configuration of this machine cannot be used.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// An error answer. The code is text: a newer server may know codes that this client does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Absent when the error came in the middle of a stream.
    pub status: Option<StatusCode>,
    pub code: String,
    pub message: String,
    pub retry_after_s: Option<u64>,
    pub details: Vec<ErrorDetail>,
    pub request_id: Option<String>,
}

impl ClientError {
    /// One word for the kind of failure, to count by: the server's code where it gave one.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::TooSlow { .. } => "no answer",
            Self::Interrupted { .. } => "connection broke",
            Self::Refused(refusal) => &refusal.code,
            Self::Unexpected { .. } => "unexpected answer",
            Self::Tls(_) => "tls",
        }
    }
}

impl Refusal {
    /// Whether the object that the call was about does not exist.
    pub fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        for detail in self.details.iter().filter(|detail| !self.message.contains(&detail.message)) {
            write!(f, "; {}: {}", detail.field, detail.message)?;
        }
        if let Some(seconds) = self.retry_after_s {
            write!(f, " (try again in {seconds} s)")?;
        }
        f.write_str(&shown(self.request_id.as_deref()))
    }
}

/// The `error` member of an error answer, and the data of an `error` event.
#[derive(Debug, Deserialize)]
pub(super) struct WireError {
    code: String,
    message: String,
    #[serde(default)]
    retry_after: Option<u64>,
    #[serde(default)]
    details: Vec<ErrorDetail>,
}

impl WireError {
    pub(super) fn into_error(
        self,
        status: Option<StatusCode>,
        request_id: Option<String>,
    ) -> ClientError {
        ClientError::Refused(Refusal {
            status,
            code: self.code,
            message: self.message,
            retry_after_s: self.retry_after,
            details: self.details,
            request_id,
        })
    }
}

fn shown(request_id: Option<&str>) -> String {
    request_id.map(|id| format!(" [{id}]")).unwrap_or_default()
}

/// The innermost cause: the outer ones only say that a connection or a body failed.
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

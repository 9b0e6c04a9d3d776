//! The JSON envelope around every answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::ErrorBody, ids::RequestId};

/// What every answer says about its request.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Meta {
    pub request_id: RequestId,
}

/// A single object: `{"status":"ok","data":…,"meta":…}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Envelope<T> {
    pub status: Status,
    pub data: T,
    pub meta: Meta,
}

/// A page of objects; `next_cursor` is present exactly when `has_more` is true.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ListEnvelope<T> {
    pub status: Status,
    pub data: Vec<T>,
    pub has_more: bool,
    pub next_cursor: Option<String>,
    pub meta: Meta,
}

/// A failure: `{"status":"error","error":…,"meta":…}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ErrorEnvelope {
    pub status: Status,
    pub error: ErrorBody,
    pub meta: Meta,
}

/// Whether the envelope carries data or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    Error,
}

//! The audit log: every call that changes something, refused ones too.
//!
//! `GET /v1/audit-log` answers a page of [`AuditEntry`], newest first; it takes `limit`, `cursor`,
//! `tenant_id`, `actor_id`, `action`, `resource_id`, `status` (`ok` or `refused`), `since` and
//! `until` (RFC 3339). `GET /v1/audit-log/export` takes the same filters and `format` (`ndjson`,
//! `json` or `csv`), and streams all of it.

use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::ErrorCode,
    ids::{ApiKeyId, EventId, RequestId, TenantId, UserId},
    time,
};

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    pub id: EventId,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub at: Timestamp,
    pub request_id: RequestId,
    /// `None`: the caller was not recognised.
    pub actor_id: Option<UserId>,
    /// The API key that was used; `None` for a token of an OIDC issuer.
    pub api_key_id: Option<ApiKeyId>,
    /// The actor's tenant.
    pub tenant_id: Option<TenantId>,
    /// The route's operation, such as `create_bunker`.
    pub action: String,
    /// What the call was about: the id in its path, or that of what it made.
    pub resource_id: Option<String>,
    pub ip: IpAddr,
    /// HTTP status of the answer.
    pub status: u16,
    /// Why it was refused.
    pub error: Option<ErrorCode>,
}

//! Capability tokens of the storage proxy.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time;

/// What a capability may do with the objects below its prefix.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum CapabilityMethod {
    Get,
    Head,
    Put,
}

/// The body of `POST /storage/capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MintCapability {
    /// Whole segments, such as `images/uploads/ten_…/`.
    pub prefix: String,
    pub methods: Vec<CapabilityMethod>,
    /// 1 to 604,800 (a week).
    pub ttl_s: u64,
}

/// A right to some objects of the storage proxy, for whoever shows `token` as
/// `Authorization: Bearer …`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capability {
    pub token: String,
    pub prefix: String,
    pub methods: Vec<CapabilityMethod>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capability")
            .field("token", &"…")
            .field("prefix", &self.prefix)
            .field("methods", &self.methods)
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

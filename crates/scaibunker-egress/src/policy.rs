//! What the gateway is told about one bunker.

use serde::{Deserialize, Serialize};

use crate::Names;

/// What a bunker may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub names: Names,
    /// What it may send, in Mbit/s.
    pub bandwidth_mbit: Option<u32>,
    /// Whether each decision is written down.
    pub is_audited: bool,
}

impl Policy {
    /// Datagrams that are no lookups name no host, so they are for those who need not name one.
    #[must_use]
    pub fn may_use_udp(&self) -> bool {
        self.names == Names::Any
    }
}

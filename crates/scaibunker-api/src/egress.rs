//! What bunkers reached, and tried to reach.

use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time;

/// One line of the egress audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressEvent {
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub at: Timestamp,
    pub event: EgressEventKind,
    pub protocol: EgressProtocol,
    /// The name that was looked up or asked for, where one is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Where the bunker's packet was meant to go; of an allowed connection, where it went.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<IpAddr>,
    pub port: u16,
    pub verdict: EgressVerdict,
    /// Why it was refused or failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Bytes that the bunker sent, once the connection has closed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sent_bytes: Option<u64>,
    /// Bytes that the bunker got, once the connection has closed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub received_bytes: Option<u64>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EgressEventKind {
    /// A name was looked up.
    Lookup,
    /// A connection was opened or refused; of HTTP, a request was let through or refused.
    Opened,
    /// A connection has ended.
    Closed,
}

/// How the bunker spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EgressProtocol {
    Dns,
    Tls,
    Http,
    /// Any other that runs over TCP.
    Tcp,
    Udp,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EgressVerdict {
    Allowed,
    /// The network profile does not allow it.
    Refused,
    /// It is allowed, and the other side could not be reached.
    Failed,
}

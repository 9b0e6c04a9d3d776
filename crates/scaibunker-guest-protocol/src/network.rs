//! Where a guest is in its networks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a guest's network devices become, in the order in which the VM has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    pub interfaces: Vec<Interface>,
    /// Where everything goes that is not in an interface's own network: at most one for IPv4 and one
    /// for IPv6.
    pub gateways: Vec<IpAddr>,
    /// Where names are looked up.
    pub resolver: Option<IpAddr>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// At most 15 bytes.
    pub name: String,
    /// Such as `02:00:00:00:00:01`.
    pub mac: String,
    /// Bytes of the largest packet; `None`: the kernel's choice.
    pub mtu: Option<u32>,
    pub addresses: Vec<Address>,
}

/// An address in a network whose addresses agree in the first `prefix` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub address: IpAddr,
    pub prefix: u8,
}

//! Where a bunker is in its network, and what is around it there.

use std::net::{Ipv4Addr, Ipv6Addr};

use scaibunker_guest_protocol::network::{Address, GuestNetwork, Interface};

use super::namespace::TAP;

/// What bunkers see of the gateway, which is also where they ask for names.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 1);
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd5c, 0xa1b0, 0, 0, 0, 0, 0, 1);
const PREFIX: u8 = 16;
const PREFIX_6: u8 = 64;

/// The other side of a bunker's cable.
const GATEWAY_MAC: &str = "02:5b:00:00:00:01";

const INTERFACE: &str = "eth0";

/// Addresses of one bunker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub address: Ipv4Addr,
    pub address_6: Ipv6Addr,
    pub mac: String,
}

impl Place {
    /// That of the VM with this number, which no other VM has at the same time.
    #[must_use]
    pub fn new(number: u32) -> Self {
        // .0.0 is the network, .0.1 the gateway, .255.255 everybody.
        let host = (number % 65_000 + 2).to_be_bytes();
        Self {
            address: Ipv4Addr::new(10, 201, host[2], host[3]),
            address_6: Ipv6Addr::from_bits(GATEWAY_6.to_bits() - 1 + u128::from(number) + 2),
            mac: format!("02:5c:{:02x}:{:02x}:{:02x}:{:02x}", host[0], host[1], host[2], host[3]),
        }
    }

    /// What the guest is told.
    #[must_use]
    pub fn guest(&self) -> GuestNetwork {
        GuestNetwork {
            interfaces: vec![Interface {
                name: INTERFACE.to_owned(),
                mac: self.mac.clone(),
                mtu: None,
                addresses: vec![
                    Address { address: self.address.into(), prefix: PREFIX },
                    Address { address: self.address_6.into(), prefix: PREFIX_6 },
                ],
            }],
            gateways: vec![GATEWAY.into(), GATEWAY_6.into()],
            resolver: Some(GATEWAY.into()),
        }
    }

    /// For `ip -batch`. The bunker's hardware address is fixed, so it cannot take another's place.
    pub(super) fn ip_batch(&self) -> String {
        let Self { address, mac, .. } = self;
        format!(
            "link set lo up\n\
             link set {TAP} address {GATEWAY_MAC} up\n\
             address add {GATEWAY}/{PREFIX} dev {TAP}\n\
             neighbour add {address} lladdr {mac} dev {TAP} nud permanent\n\
             rule add fwmark 1 lookup 100\n\
             route add local default dev lo table 100\n"
        )
    }

    /// For `ip -batch` at the other end: what a guest does with what it is told, for IPv4.
    pub(super) fn client_ip_batch(&self) -> String {
        let Self { address, mac, .. } = self;
        format!(
            "link set lo up\n\
             link set {INTERFACE} address {mac} up\n\
             address add {address}/{PREFIX} dev {INTERFACE}\n\
             route add default via {GATEWAY}\n"
        )
    }

    /// For `ip -6 -batch`.
    pub(super) fn ip6_batch(&self) -> String {
        let Self { address_6, mac, .. } = self;
        format!(
            "address add {GATEWAY_6}/{PREFIX_6} dev {TAP} nodad\n\
             neighbour add {address_6} lladdr {mac} dev {TAP} nud permanent\n\
             rule add fwmark 1 lookup 100\n\
             route add local default dev lo table 100\n"
        )
    }

    /// For `nft -f -`.
    pub(super) fn nft_ruleset(&self) -> String {
        include_str!("egress.nft")
            .replace("$MAC", &self.mac)
            .replace("$ADDRESS_6", &self.address_6.to_string())
            .replace("$ADDRESS", &self.address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_differ_and_none_is_the_gateways() {
        let places: Vec<_> = (0..3).map(Place::new).collect();
        assert_eq!(places[0].address.to_string(), "10.201.0.2");
        assert_eq!(places[0].address_6.to_string(), "fd5c:a1b0::2");
        assert_eq!(Place::new(254).address.to_string(), "10.201.1.0");
        assert!(places[1..].iter().all(|place| place.mac != places[0].mac));
        assert!(
            places.iter().all(|place| place.address != GATEWAY && place.address_6 != GATEWAY_6)
        );
    }
}

//! Bunkers on bridges of the host.
//!
//! ```text
//!  guest ─ virtio-net ─ VMM ─ tap0 ─ br0 ─ veth0 │ sb… ─ the host's bridge
//!                     the bunker's own namespace │ the host's
//! ```
//!
//! What guards a bridge from a bunker is in the bunker's namespace, and goes with it.

use rustix::rand::{GetRandomFlags, getrandom};
use scaibunker_api::{
    bunker::Interface,
    interface::{is_interface_name, is_unicast_mac},
    worker::StartNetwork,
};
use scaibunker_guest_protocol::network::{self, GuestNetwork};

use super::{
    bridges::Device,
    namespace::{Namespace, NetworkError, failed, run},
};
use crate::assets::program::{IP, NFT, TC};

/// What may be sent at once after a pause: a tenth of a second's worth, and some packets at least.
const MIN_BURST_BYTES: u64 = 64 * 1024;

/// Attaches the bunker to its bridges; what the guest is to be told. Blocks for some milliseconds.
pub fn attach(namespace: &Namespace, wanted: &StartNetwork) -> Result<GuestNetwork, NetworkError> {
    let mut cables = Vec::new();
    for (index, interface) in wanted.interfaces.iter().enumerate() {
        cables.push(Cable::new(index, interface)?);
    }
    let lines = |line: fn(&Cable) -> String| cables.iter().map(line).collect::<String>();
    let bandwidth = wanted.bandwidth_mbit.map(|mbit| shape(&cables, mbit));
    namespace.enter(|| {
        run(IP, &["-batch", "-"], &lines(Cable::inside))?;
        run(NFT, &["-f", "-"], &lines(Cable::guard))?;
        match &bandwidth {
            Some(lines) => run(TC, &["-batch", "-"], lines),
            None => Ok(Vec::new()),
        }
    })?;
    run(IP, &["-batch", "-"], &lines(Cable::outside))?;
    let interfaces = cables.iter().map(Cable::guest).collect();
    Ok(GuestNetwork { interfaces, ..GuestNetwork::default() })
}

/// What leads from one of the bunker's devices to a bridge.
struct Cable {
    index: usize,
    name: String,
    bridge: String,
    mac: String,
    mtu: u32,
    has_guard: bool,
    /// Its end on the host. Not called after the VM: the kernel takes its time to remove that of an earlier
    /// one.
    outside: String,
}

impl Cable {
    fn new(index: usize, interface: &Interface) -> Result<Self, NetworkError> {
        let Interface { if_name, bridge_name, spoof_guard, mac } = interface;
        // They become words of orders to other programs.
        let is_sound = is_interface_name(if_name)
            && is_interface_name(bridge_name)
            && mac.as_deref().is_none_or(is_unicast_mac);
        if !is_sound {
            return Err(NetworkError::NoInterface(if_name.clone()));
        }
        let bridge = Device::find(bridge_name)?.filter(Device::is_bridge);
        let bridge = bridge.ok_or_else(|| NetworkError::NoBridge(bridge_name.clone()))?;
        Ok(Self {
            index,
            name: if_name.clone(),
            bridge: bridge_name.clone(),
            mac: mac.clone().map_or_else(random_mac, Ok)?,
            mtu: bridge.mtu,
            has_guard: *spoof_guard,
            outside: format!("sb{}", random_octets()?.map(|octet| format!("{octet:02x}")).concat()),
        })
    }

    /// For `ip -batch` in the bunker's namespace.
    fn inside(&self) -> String {
        let Self { index, mtu, outside, .. } = self;
        let worker = std::process::id();
        format!(
            "link add name br{index} type bridge\n\
             link add name veth{index} type veth peer name {outside} netns {worker}\n\
             link set dev tap{index} mtu {mtu} master br{index} up\n\
             link set dev veth{index} mtu {mtu} master br{index} up\n\
             link set dev br{index} mtu {mtu} up\n"
        )
    }

    /// For `ip -batch` on the host.
    fn outside(&self) -> String {
        let Self { bridge, mtu, outside, .. } = self;
        format!("link set dev {outside} mtu {mtu} master {bridge} up\n")
    }

    /// For `nft -f -`: the bunker speaks for its own card alone, and is nobody's DHCP server or IPv6
    /// router. Neighbour discovery carries the card's address in its first option, so there may be no
    /// other before it.
    fn guard(&self) -> String {
        if !self.has_guard {
            return String::new();
        }
        include_str!("guard.nft")
            .replace("$INDEX", &self.index.to_string())
            .replace("$MAC_NUMBER", &format!("0x{}", self.mac.replace(':', "")))
            .replace("$MAC", &self.mac)
    }

    fn guest(&self) -> network::Interface {
        network::Interface {
            name: self.name.clone(),
            mac: self.mac.clone(),
            mtu: Some(self.mtu),
            addresses: Vec::new(),
        }
    }
}

/// For `tc -batch`: what each of the devices may send.
fn shape(cables: &[Cable], mbit: u32) -> String {
    let burst = (u64::from(mbit) * 1_000_000 / 8 / 10).max(MIN_BURST_BYTES);
    let line = |cable: &Cable| {
        let index = cable.index;
        format!("qdisc add dev veth{index} root tbf rate {mbit}mbit burst {burst} latency 100ms\n")
    };
    cables.iter().map(line).collect()
}

/// One that its owner has chosen: locally administered, and of one card.
fn random_mac() -> Result<String, NetworkError> {
    let mut octets = random_octets()?;
    octets[0] = octets[0] & 0xfc | 0x02;
    Ok(octets.map(|octet| format!("{octet:02x}")).join(":"))
}

fn random_octets() -> Result<[u8; 6], NetworkError> {
    let mut octets = [0; 6];
    getrandom(&mut octets, GetRandomFlags::empty()).map_err(failed("draw an address"))?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_local_and_of_one_card() {
        for _ in 0..100 {
            let mac = random_mac().unwrap();
            let first = u8::from_str_radix(&mac[..2], 16).unwrap();
            assert_eq!((first & 3, mac.len()), (2, 17), "{mac}");
        }
    }
}

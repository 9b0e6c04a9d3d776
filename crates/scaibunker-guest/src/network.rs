//! The guest's network devices.

use std::{
    fs, io,
    mem::zeroed,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use scaibunker_guest_protocol::network::{Address, GuestNetwork};

use crate::check;

const DEVICES: &str = "/sys/class/net";

/// What the host says is so: nothing is learnt from the network, and nobody else has the address.
const SYSCTLS: [(&str, &str); 3] = [("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")];

/// Renames, addresses and raises the VM's devices, and sets where the rest of the world is.
pub fn configure(network: &GuestNetwork) -> io::Result<()> {
    let devices = devices()?;
    if devices.len() < network.interfaces.len() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the VM has too few network devices"));
    }
    for (device, interface) in devices.iter().zip(&network.interfaces) {
        let mac = parse_mac(&interface.mac).ok_or(io::ErrorKind::InvalidInput)?;
        // A copy of a guest that was in a network: addresses and routes go with the device's fall.
        lower(device)?;
        if *device != interface.name {
            rename(device, &interface.name)?;
        }
        set_mac(&interface.name, mac)?;
        if let Some(mtu) = interface.mtu {
            set_mtu(&interface.name, mtu)?;
        }
        for (name, value) in SYSCTLS {
            let path = format!("/proc/sys/net/ipv6/conf/{}/{name}", interface.name);
            match fs::write(path, value) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                written => written?,
            }
        }
        raise(&interface.name)?;
        for address in &interface.addresses {
            add_address(&interface.name, *address)?;
        }
    }
    for gateway in &network.gateways {
        match gateway {
            IpAddr::V4(gateway) => add_default_route(*gateway)?,
            IpAddr::V6(gateway) => add_default_route_6(*gateway)?,
        }
    }
    Ok(())
}

/// The VM's devices in the order in which it has them.
fn devices() -> io::Result<Vec<String>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        // The loopback device is none that the VM has.
        if entry.path().join("device").exists() {
            let mac = fs::read_to_string(entry.path().join("address"))?;
            devices.push((mac, entry.file_name().to_string_lossy().into_owned()));
        }
    }
    // The kernel finds them in whatever order; the host has numbered them by their first addresses.
    devices.sort();
    Ok(devices.into_iter().map(|(_, name)| name).collect())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut octets = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(octets.next()?, 16).ok()?;
    }
    octets.next().is_none().then_some(mac)
}

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn request(device: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { zeroed() };
    write_name(&mut request.ifr_name, device)?;
    Ok(request)
}

fn write_name(field: &mut [libc::c_char; libc::IFNAMSIZ], name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() >= field.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(())
}

/// One call on a device or the routing table. `T` is what the kernel reads, and may answer into.
fn control<T>(family: AddressFamily, call: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    let socket = socket(family)?;
    // SAFETY: every caller pairs the call with the type that the kernel reads and writes for it,
    // which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), call, std::ptr::from_mut(argument)) })?;
    Ok(())
}

/// Lets a device carry packets.
pub fn raise(device: &str) -> io::Result<()> {
    set_flags(device, (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short)
}

/// Lets it carry none; one that carries none is fine.
fn lower(device: &str) -> io::Result<()> {
    set_flags(device, 0)
}

fn set_flags(device: &str, flags: libc::c_short) -> io::Result<()> {
    let mut request = request(device)?;
    request.ifr_ifru.ifru_flags = flags;
    control(AddressFamily::INET, libc::SIOCSIFFLAGS, &mut request)
}

fn rename(device: &str, name: &str) -> io::Result<()> {
    let mut request = request(device)?;
    let mut field = [0; libc::IFNAMSIZ];
    write_name(&mut field, name)?;
    request.ifr_ifru.ifru_newname = field;
    control(AddressFamily::INET, libc::SIOCSIFNAME, &mut request)
}

fn set_mac(device: &str, mac: [u8; 6]) -> io::Result<()> {
    let mut request = request(device)?;
    let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_hwaddr = address;
    control(AddressFamily::INET, libc::SIOCSIFHWADDR, &mut request)
}

fn set_mtu(device: &str, mtu: u32) -> io::Result<()> {
    let mut request = request(device)?;
    request.ifr_ifru.ifru_mtu = mtu.cast_signed();
    control(AddressFamily::INET, libc::SIOCSIFMTU, &mut request)
}

fn internet(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: both are plain structures of the same size.
    unsafe {
        std::mem::transmute(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            sin_zero: [0; 8],
        })
    }
}

fn add_address(device: &str, Address { address, prefix }: Address) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => {
            let mut request = request(device)?;
            request.ifr_ifru.ifru_addr = internet(address);
            control(AddressFamily::INET, libc::SIOCSIFADDR, &mut request)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            request.ifr_ifru.ifru_netmask = internet(Ipv4Addr::from_bits(mask));
            control(AddressFamily::INET, libc::SIOCSIFNETMASK, &mut request)
        }
        IpAddr::V6(address) => {
            let mut request = libc::in6_ifreq {
                ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
                ifr6_prefixlen: prefix.into(),
                ifr6_ifindex: index(device)? as libc::c_int,
            };
            control(AddressFamily::INET6, libc::SIOCSIFADDR, &mut request)
        }
    }
}

fn index(device: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("{DEVICES}/{device}/ifindex"))?;
    text.trim().parse().map_err(io::Error::other)
}

fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: all zeroes is a valid `rtentry`.
    let mut route: libc::rtentry = unsafe { zeroed() };
    route.rt_dst = internet(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = internet(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = internet(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    control(AddressFamily::INET, libc::SIOCADDRT, &mut route)
}

fn add_default_route_6(gateway: Ipv6Addr) -> io::Result<()> {
    let mut route = Route6 {
        gateway: gateway.octets(),
        metric: 1,
        flags: (libc::RTF_UP | libc::RTF_GATEWAY).into(),
        ..Route6::default()
    };
    // The kernel finds the device by the gateway's network.
    control(AddressFamily::INET6, libc::SIOCADDRT, &mut route)
}

/// `in6_rtmsg` of the kernel's `ipv6_route.h`, whose fields the C library's bindings keep to
/// themselves.
#[repr(C)]
#[derive(Default)]
struct Route6 {
    destination: [u8; 16],
    source: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    destination_prefix: u16,
    source_prefix: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: libc::c_int,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_six_octets() {
        assert_eq!(parse_mac("02:5c:00:00:01:fe"), Some([2, 0x5c, 0, 0, 1, 0xfe]));
        for text in ["", "02:5c:00:00:01", "02:5c:00:00:01:fe:00", "02:5c:00:00:01:xx"] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_bounded() {
        assert!(request("eth0").is_ok());
        assert!(request("").is_err());
        assert!(request("sixteen-bytes-ok").is_err());
    }
}

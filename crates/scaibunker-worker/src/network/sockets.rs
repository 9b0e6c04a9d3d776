//! The sockets that the gateway serves a bunker by.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};
use scaibunker_egress::control::{Sockets, UdpSockets};

use super::namespace::{Namespace, NetworkError, failed};

/// Where `egress.nft` hands TCP connections to.
const TCP_PORT: u16 = 9001;
const DNS_PORT: u16 = 53;
/// And datagrams that are no lookups.
const UDP_PORT: u16 = 9002;

const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const UNSPECIFIED_6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

const UDP_CHECKSUM_OFFSET: libc::c_int = 6;

/// Connections that wait to be accepted, such as while the gateway starts again.
const BACKLOG: i32 = 1024;

/// Makes the sockets in the bunker's namespace. They take what was meant for any address, which only
/// root may make them do.
pub fn open(namespace: &Namespace, may_use_udp: bool) -> Result<Sockets, NetworkError> {
    let udp_sockets = || -> Result<_, NetworkError> {
        Ok(UdpSockets {
            datagrams: [udp(UNSPECIFIED, UDP_PORT)?, udp(UNSPECIFIED_6, UDP_PORT)?],
            answers: [raw(UNSPECIFIED)?, raw(UNSPECIFIED_6)?],
        })
    };
    namespace.enter(|| {
        Ok(Sockets {
            tcp: [tcp(Ipv4Addr::LOCALHOST.into())?, tcp(Ipv6Addr::LOCALHOST.into())?],
            dns: [udp(UNSPECIFIED, DNS_PORT)?, udp(UNSPECIFIED_6, DNS_PORT)?],
            udp: may_use_udp.then(udp_sockets).transpose()?,
        })
    })
}

fn tcp(address: IpAddr) -> Result<OwnedFd, NetworkError> {
    let socket = transparent(address, SocketType::STREAM)?;
    bind(&socket, &SocketAddr::new(address, TCP_PORT)).map_err(failed("bind a socket"))?;
    listen(&socket, BACKLOG).map_err(failed("listen"))?;
    Ok(socket)
}

fn udp(address: IpAddr, port: u16) -> Result<OwnedFd, NetworkError> {
    let socket = transparent(address, SocketType::DGRAM)?;
    // Each datagram comes with the address it was sent to.
    match address {
        IpAddr::V4(_) => enable(&socket, libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR)?,
        IpAddr::V6(_) => enable(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR)?,
    }
    bind(&socket, &SocketAddr::new(address, port)).map_err(failed("bind a socket"))?;
    Ok(socket)
}

/// Sends datagrams, their header included, from whatever address and port they name. It reaches the
/// bunker alone.
fn raw(address: IpAddr) -> Result<OwnedFd, NetworkError> {
    let socket = transparent(address, SocketType::RAW)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, UDP_CHECKSUM_OFFSET)?;
    }
    // Nothing is read from it: no copies of what arrives.
    sockopt::set_socket_recv_buffer_size(&socket, 0).map_err(failed("configure a socket"))?;
    Ok(socket)
}

fn transparent(address: IpAddr, kind: SocketType) -> Result<OwnedFd, NetworkError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = if kind == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
    let socket =
        socket_with(family, kind, flags, Some(protocol)).map_err(failed("make a socket"))?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("configure a socket"))?;
    match address {
        IpAddr::V4(_) => enable(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT)?,
        IpAddr::V6(_) => {
            if kind != SocketType::RAW {
                sockopt::set_ipv6_v6only(&socket, true).map_err(failed("configure a socket"))?;
            }
            enable(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT)?;
        }
    }
    Ok(socket)
}

fn enable(socket: &OwnedFd, level: libc::c_int, option: libc::c_int) -> Result<(), NetworkError> {
    set(socket, level, option, 1)
}

fn set(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), NetworkError> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: reads `size` bytes of `value`, which outlives the call.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size)
    };
    if set < 0 {
        return Err(failed("configure a socket")(std::io::Error::last_os_error()));
    }
    Ok(())
}

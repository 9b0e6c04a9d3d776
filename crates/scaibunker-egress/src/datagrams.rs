//! Datagrams that were sent to somebody else.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// The largest there is.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// One from a bunker.
#[derive(Debug)]
pub struct Datagram {
    pub bytes: Vec<u8>,
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: SocketAddr,
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; MAX_DATAGRAM_BYTES].into_boxed_slice());
}

/// Runs something with a buffer for one datagram, which is the thread's.
pub fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| work(buffer))
}

/// Has the runtime tell when the socket is ready.
pub fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    // SAFETY: the `AsyncFd` owns the descriptor, which stays open until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Receives one without waiting.
pub fn receive(socket: &OwnedFd) -> io::Result<Datagram> {
    with_buffer(|buffer| {
        let mut control = cmsg_space!(libc::sockaddr_in6);
        let (count, from, to) = {
            let mut parts = [IoSliceMut::new(buffer)];
            let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let received = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags)?;
            let to = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Ipv4OrigDstAddr(to) => {
                    let port = u16::from_be(to.sin_port);
                    Some(SocketAddr::from((to.sin_addr.s_addr.to_ne_bytes(), port)))
                }
                ControlMessageOwned::Ipv6OrigDstAddr(to) => {
                    Some(SocketAddr::from((to.sin6_addr.s6_addr, u16::from_be(to.sin6_port))))
                }
                _ => None,
            });
            let from = received.address.and_then(|address| socket_address(&address));
            (received.bytes, from, to)
        };
        let missing = || io::Error::other("a datagram without addresses");
        let (from, to) = (from.ok_or_else(missing)?, to.ok_or_else(missing)?);
        Ok(Datagram { bytes: buffer[..count].to_vec(), from, to })
    })
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

/// Sends one without waiting, from an address that is not this host's.
pub fn send(socket: &OwnedFd, bytes: &[u8], from: IpAddr, to: SocketAddr) -> io::Result<()> {
    let (fd, parts) = (socket.as_raw_fd(), [IoSlice::new(bytes)]);
    let to = SockaddrStorage::from(to);
    match from {
        IpAddr::V4(from) => {
            let from = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: from };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        }
        IpAddr::V6(from) => {
            let from = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: from, ipi6_ifindex: 0 };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        }
    }
    Ok(())
}

//! What a worker and its gateway say to each other, over a pair of `SOCK_SEQPACKET` sockets: each
//! message is one packet of JSON, with the descriptors that it is about.

use std::{
    collections::HashSet,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use ipnet::IpNet;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair, sockopt,
};
use scaibunker_api::{bunker::NetworkUsage, ids::BunkerId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{Policy, datagrams::watch};

/// An allowlist of 256 names of 253 bytes fits.
const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Sockets of a bunker and its audit log.
const MAX_DESCRIPTORS: usize = 9;

/// What the gateway's connection to its worker is, in the gateway.
pub const DESCRIPTOR: i32 = 0;

/// From worker to gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum ToGateway {
    /// The first message: networks that are reached although they are not public.
    Start { exempt: Vec<IpNet> },
    /// Where the controllers are.
    Controllers { addresses: HashSet<IpAddr> },
    /// Serves a bunker. With it come the descriptors of [`Sockets`], and of its audit log if it is
    /// audited.
    Serve { bunker_id: BunkerId, policy: Policy },
    /// Ends a bunker's connections.
    Forget { bunker_id: BunkerId },
}

/// From gateway to worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum FromGateway {
    /// It serves.
    Ready,
    /// It still does; sent every second.
    Alive,
    /// What a bunker has used since the gateway knows it; sent when it has changed.
    Used { bunker_id: BunkerId, usage: NetworkUsage },
    /// Nothing of the bunker goes on, and its audit log is complete.
    Forgotten { bunker_id: BunkerId },
}

/// What the kernel hands a bunker's traffic to, all with `IP_TRANSPARENT`, in the order in which they
/// are passed.
#[derive(Debug)]
pub struct Sockets {
    /// Listening, for IPv4 and IPv6.
    pub tcp: [OwnedFd; 2],
    /// Bound to port 53, and telling each datagram's destination.
    pub dns: [OwnedFd; 2],
    /// If the policy allows datagrams that are no lookups.
    pub udp: Option<UdpSockets>,
}

/// For datagrams, of IPv4 and IPv6.
#[derive(Debug)]
pub struct UdpSockets {
    /// Where they arrive, with their destination.
    pub datagrams: [OwnedFd; 2],
    /// Raw ones, to which whole UDP packets are written.
    pub answers: [OwnedFd; 2],
}

impl Sockets {
    /// As they are passed.
    #[must_use]
    pub fn borrow(&self) -> Vec<BorrowedFd<'_>> {
        let udp = self.udp.iter().flat_map(|udp| udp.datagrams.iter().chain(&udp.answers));
        self.tcp.iter().chain(&self.dns).chain(udp).map(AsFd::as_fd).collect()
    }

    /// As they arrive; `None` if there are too few.
    pub(crate) fn take(fds: &mut impl Iterator<Item = OwnedFd>, policy: &Policy) -> Option<Self> {
        let mut two = || Some([fds.next()?, fds.next()?]);
        let (tcp, dns) = (two()?, two()?);
        let udp = match policy.may_use_udp() {
            true => Some(UdpSockets { datagrams: two()?, answers: two()? }),
            false => None,
        };
        Some(Self { tcp, dns, udp })
    }
}

/// One end.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// The worker's end, and the gateway's to give to it.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(own)?, other))
    }

    /// An end that was handed over.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        sockopt::set_socket_send_buffer_size(&socket, MAX_MESSAGE_BYTES)?;
        Ok(Self(watch(socket)?))
    }

    /// Sends a message and copies of the descriptors.
    pub async fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        self.0
            .async_io(Interest::WRITABLE, |socket| {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let flags = SendFlags::NOSIGNAL;
                sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
                Ok(())
            })
            .await
    }

    /// Receives a message; `None` once the other end is gone.
    pub async fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        let (count, fds) = self
            .0
            .async_io(Interest::READABLE, |socket| receive(socket.as_fd(), &mut bytes))
            .await?;
        if count == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..count])?, fds)))
    }
}

fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((received.bytes, rights.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _};

    use super::*;
    use crate::Names;

    #[tokio::test]
    async fn messages_and_descriptors_arrive_together() {
        let (worker, gateway) = Channel::pair().unwrap();
        let gateway = Channel::new(gateway).unwrap();
        let names = Names::Listed(vec![format!("{}.com", "a".repeat(249)); 256]);
        let policy = Policy { names, bandwidth_mbit: Some(10), is_audited: true };
        let sent = ToGateway::Serve { bunker_id: BunkerId::generate(), policy };
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"x").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        worker.send(&sent, &[file.as_fd(), worker.0.as_fd()]).await.unwrap();
        worker.send(&ToGateway::Start { exempt: Vec::new() }, &[]).await.unwrap();
        let (got, fds) = gateway.receive::<ToGateway>().await.unwrap().unwrap();
        assert_eq!((got, fds.len()), (sent, 2));
        let mut text = String::new();
        File::from(fds.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        let (got, fds) = gateway.receive::<ToGateway>().await.unwrap().unwrap();
        assert_eq!((got, fds.len()), (ToGateway::Start { exempt: Vec::new() }, 0));
        drop(worker);
        assert!(gateway.receive::<ToGateway>().await.unwrap().is_none());
    }
}

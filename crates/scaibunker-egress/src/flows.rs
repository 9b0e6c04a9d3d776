//! Datagrams of bunkers that may use UDP, other than lookups.
//!
//! A flow is what goes between a port of the bunker and a port of somebody else. It has a socket of its
//! own on this host, and ends when nothing was said for a while.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use scaibunker_api::egress::EgressProtocol;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UdpSocket,
    sync::mpsc,
    time::timeout,
};

use crate::{
    bunker::{Attempt, Bunker, Open},
    datagrams::{self, Datagram},
    dial::{Dialer, Refusal},
    gateway::Tasks,
};

/// What a side may be silent for.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Datagrams of one flow that wait to be sent.
const MAX_QUEUED: usize = 32;

/// A datagram that its bandwidth would hold up for longer is lost, as on a line that is full.
const MAX_DELAY: Duration = Duration::from_millis(100);

const UDP_HEADER_BYTES: usize = 8;

/// The flows of one bunker and one version of IP.
pub struct Flows {
    datagrams: AsyncFd<OwnedFd>,
    answers: AsyncFd<OwnedFd>,
    bunker: Arc<Bunker>,
    dialer: Arc<Dialer>,
    open: Mutex<HashMap<FlowKey, mpsc::Sender<Vec<u8>>>>,
}

/// Both ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FlowKey {
    guest: SocketAddr,
    aim: SocketAddr,
}

impl Flows {
    pub fn new(
        datagrams: OwnedFd,
        answers: OwnedFd,
        bunker: Arc<Bunker>,
        dialer: Arc<Dialer>,
    ) -> io::Result<Arc<Self>> {
        let (datagrams, answers) = (datagrams::watch(datagrams)?, datagrams::watch(answers)?);
        Ok(Arc::new(Self { datagrams, answers, bunker, dialer, open: Mutex::default() }))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<FlowKey, mpsc::Sender<Vec<u8>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each datagram to its flow, and begins those that are new.
    pub async fn serve(self: Arc<Self>, tasks: Tasks) {
        loop {
            let received = self.datagrams.async_io(Interest::READABLE, datagrams::receive).await;
            let Ok(Datagram { bytes, from, to }) = received else { continue };
            let key = FlowKey { guest: from, aim: to };
            let sender = self.open().get(&key).cloned();
            let sender = sender.unwrap_or_else(|| self.begin(key, &tasks));
            // A queue that is full loses datagrams, as any does.
            let _ = sender.try_send(bytes);
        }
    }

    fn begin(self: &Arc<Self>, key: FlowKey, tasks: &Tasks) -> mpsc::Sender<Vec<u8>> {
        let (sender, queue) = mpsc::channel(MAX_QUEUED);
        self.open().insert(key, sender.clone());
        let flows = Arc::clone(self);
        tasks.spawn(async move {
            let attempt = Attempt { protocol: EgressProtocol::Udp, name: None, aim: key.aim };
            if let Err(refusal) = flows.carry(key, &attempt, queue).await {
                flows.bunker.refuse(&attempt, &refusal);
            }
            flows.open().remove(&key);
        });
        sender
    }

    /// Carries datagrams both ways until both sides have been silent for a while.
    async fn carry(
        &self,
        key: FlowKey,
        attempt: &Attempt,
        mut queue: mpsc::Receiver<Vec<u8>>,
    ) -> Result<(), Refusal> {
        let _place = self.bunker.place().ok_or(Refusal::Connections)?;
        self.dialer.addresses.check(key.aim.ip()).map_err(Refusal::Address)?;
        let any: IpAddr = match key.aim {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await.map_err(Refusal::Connect)?;
        socket.connect(key.aim).await.map_err(Refusal::Connect)?;
        let open = self.bunker.open(attempt.clone())?;
        let upwards = async {
            while let Ok(Some(datagram)) = timeout(IDLE_LIMIT, queue.recv()).await {
                if open.sent(datagram.len()) <= MAX_DELAY {
                    // What cannot be sent is lost.
                    let _ = socket.send(&datagram).await;
                }
            }
        };
        let downwards = async {
            while let Ok(packet) = timeout(IDLE_LIMIT, answer(&socket, key, &open)).await {
                // Nobody listens there: the guest asks again until it gives up.
                let Ok(packet) = packet else { continue };
                let guest = SocketAddr::new(key.guest.ip(), 0);
                let send = |fd: &OwnedFd| datagrams::send(fd, &packet, key.aim.ip(), guest);
                let _ = self.answers.async_io(Interest::WRITABLE, send).await;
            }
        };
        tokio::join!(upwards, downwards);
        Ok(())
    }
}

/// The next datagram from outside as the UDP packet that the bunker gets.
async fn answer(socket: &UdpSocket, key: FlowKey, open: &Open) -> io::Result<Vec<u8>> {
    loop {
        socket.readable().await?;
        let received = datagrams::with_buffer(|buffer| {
            socket.try_recv(buffer).map(|count| packet(key, &buffer[..count]))
        });
        match received {
            Ok(packet) => {
                open.received(packet.len() - UDP_HEADER_BYTES);
                return Ok(packet);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A datagram after its header (RFC 768). Without a checksum, which IPv4 allows; for IPv6 the kernel
/// writes it.
fn packet(FlowKey { guest, aim }: FlowKey, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + UDP_HEADER_BYTES).unwrap_or(u16::MAX);
    let header = [aim.port(), guest.port(), length, 0];
    let mut packet: Vec<u8> = header.into_iter().flat_map(u16::to_be_bytes).collect();
    packet.extend_from_slice(payload);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_comes_from_where_the_bunker_sent_to() {
        let key = FlowKey {
            guest: "10.201.0.2:1234".parse().unwrap(),
            aim: "1.1.1.1:443".parse().unwrap(),
        };
        assert_eq!(packet(key, b"x"), [1, 187, 4, 210, 0, 9, 0, 0, b'x']);
    }
}

//! Lookups that come as datagrams.

use std::{os::fd::OwnedFd, sync::Arc};

use tokio::{io::Interest, sync::Semaphore};

use crate::{
    bunker::Bunker,
    datagrams::{self, Datagram},
    dial::Dialer,
    dns::{self, Transport},
    gateway::Tasks,
};

/// Lookups of one bunker that are under way at once.
const MAX_PENDING: usize = 64;

/// Answers questions, each from the address that it was sent to.
pub async fn serve(socket: OwnedFd, bunker: Arc<Bunker>, dialer: Arc<Dialer>, tasks: Tasks) {
    let Ok(socket) = datagrams::watch(socket) else { return };
    let (socket, pending) = (Arc::new(socket), Arc::new(Semaphore::new(MAX_PENDING)));
    loop {
        let received = socket.async_io(Interest::READABLE, datagrams::receive).await;
        // An error tells of an earlier answer that did not get through.
        let Ok(Datagram { bytes, from, to }) = received else { continue };
        // What is beyond that is lost, as datagrams are; the asker asks again.
        let Ok(permit) = Arc::clone(&pending).try_acquire_owned() else { continue };
        let (bunker, dialer) = (Arc::clone(&bunker), Arc::clone(&dialer));
        let socket = Arc::clone(&socket);
        tasks.spawn(async move {
            let answer = dns::answer(&bunker, &dialer, &bytes, to, Transport::Datagram).await;
            if let Some(answer) = answer {
                let send = |socket: &OwnedFd| datagrams::send(socket, &answer, to.ip(), from);
                let _ = socket.async_io(Interest::WRITABLE, send).await;
            }
            drop(permit);
        });
    }
}

//! The virtio-serial port of the channel.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, epoll, poll},
    fs::{Mode, OFlags, open},
    io::{Errno, fcntl_dupfd_cloexec},
    time::Timespec,
};
use scaibunker_guest_protocol::PORT_NAME;
use tokio::io::Interest;

use crate::watch;

/// The port appears a moment after its driver was loaded.
const FIND_LIMIT: Duration = Duration::from_secs(20);
const FIND_INTERVAL: Duration = Duration::from_millis(1);

const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The port, open for the agent's whole life: closing it would discard what the host has sent.
#[derive(Debug)]
pub struct Port {
    fd: OwnedFd,
}

impl Port {
    /// Waits for the port and opens it.
    pub fn open() -> io::Result<Self> {
        let deadline = Instant::now() + FIND_LIMIT;
        loop {
            if let Some(path) = find()? {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                return Ok(Self { fd: open(path, flags, Mode::empty())? });
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::NotFound, "no port of that name"));
            }
            thread::sleep(FIND_INTERVAL);
        }
    }

    /// Waits for a connected host and returns a descriptor for that one connection.
    ///
    /// Registering the port itself with the runtime would not do: it reads as closed while no
    /// host is there, and the runtime keeps a closed descriptor closed for ever. So the port is
    /// watched, edge-triggered, by an epoll of its own, and that one by the runtime.
    pub async fn connected(&self) -> io::Result<OwnedFd> {
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let kinds = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&edges, &self.fd, epoll::EventData::new_u64(0), kinds)?;
        let edges = watch(edges, Interest::READABLE)?;
        while !self.is_connected()? {
            let mut ready = edges.readable().await?;
            let mut events = Vec::with_capacity(1);
            let space = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(edges.get_ref(), space, Some(&NO_WAIT))?;
            ready.clear_ready();
        }
        Ok(fcntl_dupfd_cloexec(&self.fd, 3)?)
    }

    fn is_connected(&self) -> io::Result<bool> {
        let mut polled = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::empty())];
        match poll(&mut polled, Some(&NO_WAIT)) {
            Ok(_) => Ok(!polled[0].revents().contains(PollFlags::HUP)),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The number in a port's node is the virtio device's index, so only its name identifies it.
fn find() -> io::Result<Option<String>> {
    let entries = match fs::read_dir("/sys/class/virtio-ports") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Ok(Some(format!("/dev/{}", entry.file_name().to_string_lossy())));
        }
    }
    Ok(None)
}

//! A process known by its pidfd, which no recycled pid can stand in for.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, pidfd_getfd, pidfd_open,
        pidfd_send_signal, waitid,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// A jailed process. Dropping it kills the process and waits for its end.
#[derive(Debug)]
pub struct JailedProcess {
    pid: i32,
    pidfd: OwnedFd,
    armed: bool,
}

impl JailedProcess {
    pub(super) fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, armed: true }
    }

    /// Takes over a process that an earlier server started. The caller has made sure that the
    /// pid still is that process, after which the pidfd keeps it so.
    pub fn adopt(pid: i32) -> io::Result<Self> {
        let target = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self::new(pid, pidfd_open(target, PidfdFlags::empty())?))
    }

    /// The process's id in the host's namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the end of the process and tells how it ended, as far as can be known: a process
    /// started by an earlier server leaves no status.
    pub async fn ended(&self) -> io::Result<String> {
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: the `AsyncFd` owns the descriptor, which stays open until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        watched.readable().await?.retain_ready();
        Ok(self.reap())
    }

    /// A copy of one of the process's descriptors.
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty())?)
    }

    /// Sends SIGKILL; a process that has ended already is fine.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Stops all threads of the process, until [`Self::thaw`]; it can be killed all the same.
    pub fn freeze(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, Signal::STOP)?)
    }

    /// Lets the process go on; one that was not stopped is fine.
    pub fn thaw(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, Signal::CONT)?)
    }

    /// Lets the process live on without this server, to be adopted by the next one.
    pub fn leave_running(mut self) {
        self.armed = false;
    }

    /// Blocks until the process has ended.
    fn reap(&self) -> String {
        let wait = || {
            waitid(
                WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.pidfd)),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            )
        };
        let status = match rustix::io::retry_on_intr(wait) {
            Ok(Some(status)) => status,
            Ok(None) | Err(_) => return "the VMM process ended".to_owned(),
        };
        if let Some(signal) = status.terminating_signal() {
            format!("the VMM process was killed by signal {signal}")
        } else {
            match status.exit_status() {
                Some(0) | None => "the guest shut down".to_owned(),
                Some(code) => format!("the VMM process failed with exit code {code}"),
            }
        }
    }
}

impl Drop for JailedProcess {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        self.kill();
        let pidfd = WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.pidfd));
        let reaped = rustix::io::retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED));
        if matches!(reaped, Err(Errno::CHILD)) {
            // Another process's child: its end shows as readability of the pidfd.
            let mut poll = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, None));
        }
    }
}

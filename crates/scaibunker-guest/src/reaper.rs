//! Ended children: PID 1 inherits every orphan of the VM, and commands are its children too.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::{io::Interest, sync::oneshot};

use crate::watch;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signalled(i32),
}

/// Collects every ended child, and tells those who expected it; clones share it.
///
/// A child is expected *before* it is made: the kernel writes its number into the expectation
/// before it lets it run, so no status is lost, however quickly the child ends and on whichever
/// thread it was made.
#[derive(Debug, Clone, Default)]
pub struct Reaper {
    expected: Arc<Mutex<Vec<Expectation>>>,
}

#[derive(Debug)]
struct Expectation {
    pid: Arc<AtomicI32>,
    ended: oneshot::Sender<Ended>,
}

/// A child that is about to be made, or was. Dropping it lets the child end unnoticed.
#[derive(Debug)]
pub struct Child {
    /// 0 until the kernel has made the child.
    pub pid: Arc<AtomicI32>,
    ended: oneshot::Receiver<Ended>,
    reaper: Reaper,
}

impl Reaper {
    /// Announces a child.
    pub fn expect(&self) -> Child {
        let (sender, ended) = oneshot::channel();
        let pid = Arc::new(AtomicI32::new(0));
        self.expected().push(Expectation { pid: Arc::clone(&pid), ended: sender });
        Child { pid, ended, reaper: self.clone() }
    }

    fn expected(&self) -> MutexGuard<'_, Vec<Expectation>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, pid: Pid, ended: Ended) {
        let mut expected = self.expected();
        let number = pid.as_raw_nonzero().get();
        let found = expected.iter().position(|e| e.pid.load(Ordering::Acquire) == number);
        if let Some(index) = found {
            // The receiver is gone when nobody cares any more.
            let _ = expected.swap_remove(index).ended.send(ended);
        }
    }

    /// Reaps for ever; `children` is readable whenever a child has ended.
    pub async fn run(self, children: OwnedFd) -> io::Result<()> {
        let children = watch(children, Interest::READABLE)?;
        loop {
            let mut ready = children.readable().await?;
            let mut infos = [0; 16 * size_of::<libc::signalfd_siginfo>()];
            while rustix::io::read(&children, &mut infos).is_ok() {}
            ready.clear_ready();
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                if let Some(ended) = ended(status) {
                    self.settle(pid, ended);
                }
            }
        }
    }
}

fn ended(status: WaitStatus) -> Option<Ended> {
    let exited = status.exit_status().map(Ended::Exited);
    exited.or_else(|| status.terminating_signal().map(Ended::Signalled))
}

impl Child {
    /// Waits for the child's end.
    pub async fn ended(&mut self) -> Ended {
        // The sender is dropped only with the reaper, whose end is the VM's.
        (&mut self.ended).await.unwrap_or(Ended::Signalled(libc::SIGKILL))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reaper.expected().retain(|e| !Arc::ptr_eq(&e.pid, &self.pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[tokio::test]
    async fn a_child_hears_of_its_own_end_only() {
        let reaper = Reaper::default();
        let (mut first, mut second) = (reaper.expect(), reaper.expect());
        first.pid.store(10, Ordering::Release);
        second.pid.store(11, Ordering::Release);
        reaper.settle(pid(99), Ended::Exited(1));
        reaper.settle(pid(11), Ended::Signalled(9));
        reaper.settle(pid(10), Ended::Exited(3));
        assert_eq!(first.ended().await, Ended::Exited(3));
        assert_eq!(second.ended().await, Ended::Signalled(9));
    }

    #[test]
    fn a_child_that_was_never_made_is_forgotten() {
        let reaper = Reaper::default();
        drop(reaper.expect());
        assert!(reaper.expected().is_empty());
    }
}

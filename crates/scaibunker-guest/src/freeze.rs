//! Holding the bunker's file system still for the moment in which the host copies its disk.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

use crate::{check, error::AgentError, root::BunkerRoot};

/// A host that has gone leaves nothing frozen for longer.
const LIMIT: Duration = Duration::from_secs(10);

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)` of the kernel's `fs.h`.
const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

/// Whether the file system is frozen.
#[derive(Debug, Default)]
pub struct Freezer {
    is_frozen: AtomicBool,
}

impl Freezer {
    /// Writes everything out, then lets nothing be written until [`Self::thaw`]. Whoever writes
    /// waits.
    pub async fn freeze(self: &Arc<Self>, root: &Arc<BunkerRoot>) -> Result<(), AgentError> {
        if self.is_frozen.swap(true, Ordering::Relaxed) {
            return Err(AgentError::Conflict("the file system is frozen already".to_owned()));
        }
        let frozen = on_disk(root, |disk| {
            // The bulk of it, while others still write: freezing then takes milliseconds.
            rustix::fs::syncfs(disk.as_fd())?;
            control(disk, FIFREEZE)
        });
        if let Err(error) = frozen.await {
            self.is_frozen.store(false, Ordering::Relaxed);
            return Err(AgentError::io("freeze the file system")(error));
        }
        let (freezer, root) = (Arc::clone(self), Arc::clone(root));
        tokio::spawn(async move {
            sleep(LIMIT).await;
            // Done by then, as a rule.
            let _ = freezer.thaw(&root).await;
        });
        Ok(())
    }

    /// Lets the file system go on. An error means that it may have done so before.
    pub async fn thaw(&self, root: &Arc<BunkerRoot>) -> Result<(), AgentError> {
        if !self.is_frozen.swap(false, Ordering::Relaxed) {
            return Err(AgentError::Conflict("the file system is not frozen".to_owned()));
        }
        let thawed = on_disk(root, |disk| control(disk, FITHAW)).await;
        thawed.map_err(AgentError::io("thaw the file system"))
    }
}

async fn on_disk(
    root: &Arc<BunkerRoot>,
    work: impl FnOnce(&OwnedFd) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let root = Arc::clone(root);
    let done = tokio::task::spawn_blocking(move || work(root.disk()));
    done.await.unwrap_or_else(|lost| Err(lost.into()))
}

fn control(disk: &OwnedFd, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: the kernel reads no argument of either request.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), request, 0) }).map(drop)
}

//! A guest that is about to be copied, or to stand still for long.
//!
//! Its commands stand still from before the host stops it until it has been told the time, or who it is:
//! none of them sees an old clock, or draws what another copy draws too. And a session that ends meanwhile
//! ends no command: in a copy, the host of the session has gone for ever, and commands go on without it.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::cgroup::BunkerCgroup;

/// Whether commands stand still.
#[derive(Debug, Default)]
pub struct Hold {
    is_held: AtomicBool,
}

impl Hold {
    /// Stops all commands. One that is in the kernel stops when it leaves it.
    pub async fn take(&self, cgroup: &BunkerCgroup) -> io::Result<()> {
        self.is_held.store(true, Ordering::Relaxed);
        cgroup.freeze().await.inspect_err(|_| self.is_held.store(false, Ordering::Relaxed))
    }

    /// Lets them go on; without a hold there is nothing to do.
    pub fn release(&self, cgroup: &BunkerCgroup) -> io::Result<()> {
        if self.is_held.swap(false, Ordering::Relaxed) { cgroup.thaw() } else { Ok(()) }
    }

    /// Whether a session that ends now leaves its commands alone.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }
}

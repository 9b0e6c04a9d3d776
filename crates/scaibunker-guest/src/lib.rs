//! The guest agent: PID 1 of every bunker.
//!
//! ```text
//! boot ─▶ serve: log ─POST /prepare─▶ serve: identify, exec, files
//!  (root mounted; a template is saved here)  (unique)
//! ```
//!
//! The agent lives in the initramfs and keeps its own `/proc`, `/sys` and `/dev` there; commands
//! see the bunker's root alone. What happens in the bunker short of an attack by its root user —
//! every process killed, memory, disk or process table full — leaves the agent answering:
//! it is exempt from signals and the OOM killer, and commands live in a cgroup of their own.
//!
//! When the agent itself ends, the kernel panics and the VM with it: nothing runs unsupervised.

mod accounts;
mod body;
mod boot;
mod cgroup;
mod error;
mod exec;
mod files;
mod freeze;
mod hold;
mod identity;
mod log;
mod network;
mod port;
mod reaper;
mod root;
mod root_files;
mod server;
mod session;

use std::{convert::Infallible, ffi::c_int, io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

use crate::{error::AgentError, server::Agent};

/// Boots and serves until the VM ends; returns only when that is impossible.
#[must_use]
pub fn run() -> c_int {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a bunker's microVM; it does nothing elsewhere");
        return 2;
    }
    let Err(error) = live();
    // Nobody else is left to tell; the console exists only where somebody debugs a boot.
    let _ = std::fs::write("/dev/kmsg", format!("scaibunker-guest: {}", error.chain()));
    1
}

fn live() -> Result<Infallible, AgentError> {
    let booted = boot::boot()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(boot::THREAD_STACK_BYTES)
        .max_blocking_threads(boot::MAX_THREADS)
        .build()
        .map_err(AgentError::io("start the runtime"))?;
    runtime.block_on(serve(booted))
}

async fn serve(booted: boot::Booted) -> Result<Infallible, AgentError> {
    let boot::Booted { port, cgroup, children, log } = booted;
    let reaper = reaper::Reaper::default();
    tokio::spawn(reaper.clone().run(children));
    let agent = Agent::new(cgroup, reaper, log).map_err(AgentError::io("open the entropy pool"))?;
    let carry = session::Carry::default();
    loop {
        let stream =
            session::accept(&port, &carry).await.map_err(AgentError::io("read the port"))?;
        server::serve(&agent, stream).await;
    }
}

/// Has the runtime watch a descriptor.
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// `Ok`, or the error of the last system call.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

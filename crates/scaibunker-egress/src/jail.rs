//! The gateway gives up everything but its sockets before it reads a byte of a bunker's.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Uid},
    process::{
        DumpableBehavior, Resource, Rlimit, chdir, chroot, getrlimit, set_dumpable_behavior,
        setrlimit,
    },
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::syscalls;

/// Private memory that the process may have.
const MAX_DATA_BYTES: u64 = 2 << 30;

/// It could not give something up.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("cannot {what} ({path}): {error}")]
    Right { what: &'static str, path: PathBuf, error: io::Error },
    #[error("cannot give up system calls: {0}")]
    SystemCalls(#[from] seccompiler::Error),
}

/// Leaves the host's files, root's rights and most of the kernel. Only while the process has a single thread.
pub fn enter(root: &Path, uid: u32) -> Result<(), JailError> {
    let failed = |what: &'static str| {
        let path = root.to_owned();
        move |error: rustix::io::Errno| JailError::Right { what, path, error: error.into() }
    };
    // Two for each connection and some for each bunker: as many as it may have.
    let open_files = getrlimit(Resource::Nofile).maximum;
    for (resource, limit) in [
        (Resource::Core, Some(0)),
        (Resource::Data, Some(MAX_DATA_BYTES)),
        (Resource::Nofile, open_files),
    ] {
        setrlimit(resource, Rlimit { current: limit, maximum: limit })
            .map_err(failed("set limits"))?;
    }
    chroot(root).map_err(failed("change its root"))?;
    chdir("/").map_err(failed("change its root"))?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[]).map_err(failed("leave its groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(failed("change its group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(failed("change its user"))?;
    set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("become undumpable"))?;
    Ok(syscalls::restrict()?)
}

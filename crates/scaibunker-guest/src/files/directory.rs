//! Making and moving.

use rustix::{
    fs::{RenameFlags, renameat_with},
    io::Errno,
};
use scaibunker_guest_protocol::{
    GuestErrorKind,
    files::{Entry, EntryType, MakeDirectoryCall, MoveCall},
};

use super::{
    entry::printable,
    tree::{Owner, Tree, trim_end},
    upload::check,
};
use crate::error::AgentError;

/// Permission bits of a new directory.
const DIRECTORY_MODE: u32 = 0o755;

/// Makes a directory and those above it. One that exists is left as it is.
pub fn make(tree: &Tree, call: &MakeDirectoryCall) -> Result<Entry, AgentError> {
    let failed = || AgentError::file(format!("make the directory {}", printable(&call.path)));
    check(call)?;
    if trim_end(call.path.as_bytes()).is_empty() {
        return tree.stat(&call.path);
    }
    let path = trim_end(call.path.as_bytes());
    let parent = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash);
    tree.make_directories(&path[..parent])?;
    let place = tree.place(&call.path)?;
    let found = place.stat().map_err(failed())?;
    if found.is_none() {
        let mode = call.mode.unwrap_or(DIRECTORY_MODE);
        let owner = Owner { uid: call.uid, gid: call.gid };
        tree.make_directory(&place.dir, &place.name, mode, owner).map_err(failed())?;
    }
    let entry = place.entry(&call.path).map_err(failed())?;
    let leads_to_directory = || {
        tree.open(call.path.as_bytes(), rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY)
    };
    match entry.kind {
        EntryType::Directory => Ok(entry),
        EntryType::Symlink if leads_to_directory().is_ok() => Ok(entry),
        _ => Err(failed()(Errno::EXIST)),
    }
}

/// Moves an entry, whatever it is, within one file system.
pub fn relocate(tree: &Tree, call: &MoveCall) -> Result<Entry, AgentError> {
    let (from, to) = (tree.place(&call.path)?, tree.place(&call.to)?);
    let flags = if call.overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let (old, new) = (from.name.as_slice(), to.name.as_slice());
    match renameat_with(&from.dir, old, &to.dir, new, flags) {
        Err(Errno::XDEV) => Err(AgentError::refused(
            GuestErrorKind::Invalid,
            format!(
                "{} and {} are on different file systems; write the file anew and delete the old one",
                printable(&call.path),
                printable(&call.to)
            ),
        )),
        moved => {
            let what = format!("move {} to {}", printable(&call.path), printable(&call.to));
            moved.map_err(AgentError::file(what))?;
            to.entry(&call.to).map_err(AgentError::file(format!("look at {}", printable(&call.to))))
        }
    }
}

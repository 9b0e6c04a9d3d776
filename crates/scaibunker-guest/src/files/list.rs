//! Listing directories, a bounded part at a time and without state in between: a list goes on
//! after the path that the one before ended with.

use std::{collections::BinaryHeap, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawDir, openat, statat},
    io::Errno,
};
use scaibunker_guest_protocol::files::{
    Entry, EntryType, FilePath, ListCall, Listing, MAX_DEPTH, MAX_LISTED, MAX_LISTING_BYTES,
};

use super::{
    entry::{entry, printable, printable_bytes},
    tree::{Tree, trim_end},
};
use crate::error::AgentError;

const BUFFER_BYTES: usize = 32 * 1024;

/// Lists a directory.
pub fn list(tree: &Tree, call: &ListCall) -> Result<Listing, AgentError> {
    if !(1..=MAX_DEPTH).contains(&call.depth) || !(1..=MAX_LISTED).contains(&call.limit) {
        let message = format!("depth is 1 to {MAX_DEPTH} and limit 1 to {MAX_LISTED}");
        return Err(AgentError::Invalid(message));
    }
    let base = trim_end(call.path.as_bytes());
    let after: Vec<&[u8]> = match &call.after {
        Some(after) => names_below(base, after)?,
        None => Vec::new(),
    };
    let directory = tree.open_directory(&call.path)?;
    let mut list = List { tree, left: call.limit as usize, bytes: 0, entries: Vec::new() };
    let has_more = match list.walk(&directory, base, &after, call.depth) {
        Ok(()) => false,
        // An empty part would be none to go on from.
        Err(Stopped::Full) => !list.entries.is_empty(),
        Err(Stopped::Failed(error)) => return Err(error),
    };
    Ok(Listing { entries: list.entries, has_more })
}

/// The names that lead from `base` to `path`.
fn names_below<'a>(base: &[u8], path: &'a FilePath) -> Result<Vec<&'a [u8]>, AgentError> {
    let below = path.as_bytes().strip_prefix(base).and_then(|rest| rest.strip_prefix(b"/"));
    let names: Vec<_> = below.unwrap_or_default().split(|&byte| byte == b'/').collect();
    if names.iter().any(|name| [&b""[..], b".", b".."].contains(name)) {
        let path = printable(path);
        return Err(AgentError::Invalid(format!("{path} is no path that the list ended with")));
    }
    Ok(names)
}

/// Why a walk ended before the last entry.
enum Stopped {
    /// There is at least one entry more.
    Full,
    Failed(AgentError),
}

struct List<'a> {
    tree: &'a Tree,
    /// Entries that still may come.
    left: usize,
    /// Of JSON so far.
    bytes: usize,
    entries: Vec<Entry>,
}

impl List<'_> {
    /// Adds the entries of a directory that come after `after`, each followed by what is in it.
    fn walk(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        after: &[&[u8]],
        depth: u32,
    ) -> Result<(), Stopped> {
        self.tree.check_wanted().map_err(Stopped::Failed)?;
        let failed = |error| {
            let path = printable_bytes(path);
            Stopped::Failed(AgentError::file(format!("list the directory {path}"))(error))
        };
        let first = after.first().copied();
        // The one that the list before ended in or with is not new, but there may be more in it.
        let (names, is_cut) = smallest_names(dir, first, self.left + 2).map_err(failed)?;
        for name in names {
            let is_old = Some(name.as_slice()) == first;
            let child_path = [path, b"/", &name].concat();
            let Ok(stat) = statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let Ok(child_path_checked) = FilePath::new(child_path.clone()) else { continue };
            let Ok(found) = entry(child_path_checked, &stat, dir, &name) else { continue };
            let is_directory = found.kind == EntryType::Directory;
            if !is_old {
                self.add(found)?;
            }
            if is_directory && depth > 1 {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // One that may not be read, or is gone, is listed itself at most.
                if let Ok(child) = openat(dir, name.as_slice(), flags, Mode::empty()) {
                    let after = if is_old { &after[1..] } else { &[] };
                    self.walk(&child, &child_path, after, depth - 1)?;
                }
            }
        }
        if is_cut { Err(Stopped::Full) } else { Ok(()) }
    }

    fn add(&mut self, entry: Entry) -> Result<(), Stopped> {
        let json = serde_json::to_vec(&entry).map_or(0, |json| json.len());
        let is_full = self.left == 0 || self.bytes + json > MAX_LISTING_BYTES;
        if is_full && !self.entries.is_empty() {
            return Err(Stopped::Full);
        }
        self.left = self.left.saturating_sub(1);
        self.bytes += json;
        self.entries.push(entry);
        Ok(())
    }
}

/// The first `count` names of a directory from `from` on, in order, and whether there are more.
/// Holds no more than these, however large the directory is.
fn smallest_names(
    dir: &OwnedFd,
    from: Option<&[u8]>,
    count: usize,
) -> Result<(Vec<Vec<u8>>, bool), Errno> {
    let mut names = BinaryHeap::with_capacity(count.min(64));
    let mut is_cut = false;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || from.is_some_and(|from| name < from) {
            continue;
        }
        if names.len() < count {
            names.push(name.to_vec());
            continue;
        }
        is_cut = true;
        if names.peek().is_some_and(|largest| name < largest.as_slice()) {
            names.pop();
            names.push(name.to_vec());
        }
    }
    Ok((names.into_sorted_vec(), is_cut))
}

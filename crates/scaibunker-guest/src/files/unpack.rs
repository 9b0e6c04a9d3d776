//! A tar archive into a directory.
//!
//! Nothing is made outside that directory: names with `..` are skipped, a leading `/` is dropped,
//! and links that lead out of it are not followed. Modes and times are the archive's; owners are,
//! too, where the caller has root's rights and names no other.

use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, chownat,
        fchmod, futimens, linkat, openat2, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
    thread::{Gid, Uid},
};
use scaibunker_guest_protocol::files::{Unpacked, WriteCall};

use super::{
    bulk_file::BulkFile,
    directory,
    entry::{printable, printable_bytes},
    tar_reader::{TarEntry, TarError, TarKind, TarReader},
    transfer::BodyReader,
    tree::{Owner, Tree},
    upload::NewFile,
};
use crate::error::AgentError;

/// Names of directories whose modes and times are set at the end, when nothing is made in them
/// any more. Directories past this get their mode at once.
const MAX_DELAYED_BYTES: usize = 4 * 1024 * 1024;

/// Unpacks the body into the directory at the call's path, which is made where it is missing.
pub fn unpack(
    tree: &Tree,
    call: &WriteCall,
    body: &mut BodyReader,
) -> Result<Unpacked, AgentError> {
    directory::make(tree, call)?;
    let top = tree.open_directory(&call.path)?;
    let wanted = Owner { uid: call.uid, gid: call.gid };
    let mut target = Target {
        tree,
        top,
        wanted,
        parent: None,
        delayed: Vec::new(),
        delayed_bytes: 0,
        done: Unpacked { entries: 0, bytes: 0 },
    };
    let mut archive = TarReader::new(body);
    while let Some(entry) = archive.next_entry().map_err(unreadable)? {
        tree.check_wanted()?;
        target.add(&entry, &mut archive).map_err(|error| {
            let (entry, path) = (printable_bytes(&entry.path), printable(&call.path));
            match Errno::from_io_error(&error) {
                Some(Errno::XDEV) => {
                    AgentError::Invalid(format!("{entry} of the archive leads out of {path}"))
                }
                Some(_) => AgentError::file(format!("unpack {entry} into {path}"))(error),
                None => AgentError::Invalid(format!("the archive is broken: {error}")),
            }
        })?;
    }
    target.finish();
    Ok(target.done)
}

fn unreadable(error: TarError) -> AgentError {
    match error {
        TarError::Broken(_) => AgentError::Invalid(error.to_string()),
        TarError::Read(source) => AgentError::io("read the archive")(source),
    }
}

/// Where an archive goes.
struct Target<'a> {
    tree: &'a Tree,
    top: OwnedFd,
    /// Who gets everything, where the call says so.
    wanted: Owner,
    /// The directory that the last entry went into, by its path: the next one mostly does as well.
    parent: Option<(Vec<u8>, OwnedFd)>,
    delayed: Vec<Delayed>,
    delayed_bytes: usize,
    done: Unpacked,
}

/// A directory whose mode and time are still to be set.
struct Delayed {
    path: Vec<u8>,
    mode: u32,
    modified_s: i64,
}

impl Target<'_> {
    fn add(
        &mut self,
        entry: &TarEntry,
        archive: &mut TarReader<&mut BodyReader>,
    ) -> io::Result<()> {
        let Some(names) = names(&entry.path) else { return Ok(()) };
        let Some((name, above)) = names.split_last() else { return Ok(()) };
        let above = above.join(&b'/');
        let parent = match self.parent.take() {
            Some((path, dir)) if path == above => dir,
            _ => self.make_directories(&above)?,
        };
        let made = match &entry.kind {
            TarKind::File => self.add_file(&parent, name, entry, archive),
            TarKind::Directory => self.add_directory(&parent, name, &names.join(&b'/'), entry),
            TarKind::Symlink(target) => self.add_symlink(&parent, name, target, entry),
            TarKind::HardLink(target) => self.add_hard_link(&parent, name, target),
            TarKind::Other => Ok(()),
        };
        made?;
        if entry.kind != TarKind::Other {
            self.done.entries += 1;
        }
        self.parent = Some((above, parent));
        Ok(())
    }

    fn add_file(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &TarEntry,
        archive: &mut TarReader<&mut BodyReader>,
    ) -> io::Result<()> {
        let new = NewFile::create(parent)?;
        let mut file = BulkFile::new(&new.file);
        self.done.bytes += io::copy(archive, &mut file)?;
        file.flush()?;
        self.owner(entry).give(&new.file)?;
        fchmod(&new.file, Mode::from_raw_mode(entry.mode))?;
        futimens(&new.file, &times(entry.modified_s))?;
        new.rename(parent, name)?;
        Ok(())
    }

    fn add_directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        entry: &TarEntry,
    ) -> io::Result<()> {
        // Reachable until all that is in it has been made.
        let mode = entry.mode | 0o700;
        if let Err(error) = self.tree.make_directory(parent, name, mode, self.owner(entry)) {
            return Err(error.into());
        }
        let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {}
            // Left as it is, if it leads to a directory inside.
            FileType::Symlink => {
                beneath(&self.top, path, OFlags::PATH | OFlags::DIRECTORY)?;
                return Ok(());
            }
            _ => return Err(Errno::EXIST.into()),
        }
        let delayed =
            Delayed { path: path.to_vec(), mode: entry.mode, modified_s: entry.modified_s };
        if self.delayed_bytes + path.len() > MAX_DELAYED_BYTES {
            self.settle(&delayed);
        } else {
            self.delayed_bytes += path.len();
            self.delayed.push(delayed);
        }
        Ok(())
    }

    fn add_symlink(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        target: &[u8],
        entry: &TarEntry,
    ) -> io::Result<()> {
        clear_place(parent, name)?;
        symlinkat(target, parent, name)?;
        let Owner { uid, gid } = self.owner(entry);
        if (uid, gid) != (None, None) {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let times = times(entry.modified_s);
        Ok(utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn add_hard_link(&mut self, parent: &OwnedFd, name: &[u8], target: &[u8]) -> io::Result<()> {
        let names = names(target).ok_or(Errno::XDEV)?;
        let (target, above) = names.split_last().ok_or(Errno::INVAL)?;
        let dir = beneath(&self.top, &above.join(&b'/'), OFlags::PATH | OFlags::DIRECTORY)?;
        clear_place(parent, name)?;
        Ok(linkat(&dir, *target, parent, name, AtFlags::empty())?)
    }

    fn owner(&self, entry: &TarEntry) -> Owner {
        let of_new = self.tree.new_owner();
        if of_new == Owner::default() {
            return self.wanted;
        }
        self.wanted.or(Owner { uid: entry.uid, gid: entry.gid }).or(of_new)
    }

    /// Opens a directory inside, and makes it and those above it where they are missing.
    fn make_directories(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match beneath(&self.top, path, flags) {
            Err(Errno::NOENT) => {}
            opened => return Ok(opened?),
        }
        let mut dir = beneath(&self.top, b"", flags)?;
        let mut end = 0;
        for name in path.split(|&byte| byte == b'/') {
            end += name.len();
            let owner = self.wanted;
            self.tree.make_directory(&dir, name, 0o755, owner)?;
            dir = beneath(&self.top, &path[..end], flags)?;
            end += 1;
        }
        Ok(dir)
    }

    /// Sets the modes and times of the directories, the deepest ones first.
    fn finish(&mut self) {
        while let Some(delayed) = self.delayed.pop() {
            self.settle(&delayed);
        }
    }

    /// What a directory is like cannot be set where the caller does not own it; it still holds
    /// what it should.
    fn settle(&self, delayed: &Delayed) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if let Ok(dir) = beneath(&self.top, &delayed.path, flags) {
            let _ = futimens(&dir, &times(delayed.modified_s));
            let _ = fchmod(&dir, Mode::from_raw_mode(delayed.mode));
        }
    }
}

/// The names of a path, `None` when it leads upwards; empty for the top itself.
fn names(path: &[u8]) -> Option<Vec<&[u8]>> {
    let names: Vec<&[u8]> =
        path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    (!names.contains(&&b".."[..])).then_some(names)
}

/// Opens what is inside `top`, which no link leaves.
fn beneath(top: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(top, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// Makes room for a link. A directory is not replaced by one.
fn clear_place(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        cleared => cleared,
    }
}

fn times(modified_s: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified_s, tv_nsec: 0 },
    }
}

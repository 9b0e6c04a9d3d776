//! Deleting.
//!
//! A tree is taken down entry by entry, without following links and without leaving its file
//! system, by one descriptor however deep it is: the way up is the directory's own `..`, if that
//! still is where the way down came from.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, fstat, openat2, statat, unlinkat},
    io::Errno,
};
use scaibunker_guest_protocol::files::DeleteCall;

use super::{
    entry::{printable, printable_bytes},
    tree::Tree,
};
use crate::error::AgentError;

/// Deepest tree that is deleted; each level costs the agent its name.
const MAX_DEPTH: usize = 32 * 1024;

const BUFFER_BYTES: usize = 32 * 1024;

/// Deletes an entry; a directory with all in it if the call says so.
pub fn delete(tree: &Tree, call: &DeleteCall) -> Result<(), AgentError> {
    let failed = || AgentError::file(format!("delete {}", printable(&call.path)));
    let place = tree.place(&call.path)?;
    match remove(&place.dir, &place.name) {
        Err(Errno::NOTEMPTY | Errno::EXIST) if call.recursive => {}
        removed => return removed.map_err(failed()),
    }
    let mut walk = Walk::down(&place.dir, &place.name).map_err(failed())?;
    while !walk.levels.is_empty() {
        tree.check_wanted()?;
        if let Err((name, error)) = walk.step() {
            let what =
                format!("delete {} inside {}", printable_bytes(&name), printable(&call.path));
            return Err(AgentError::file(what)(error));
        }
    }
    remove(&place.dir, &place.name).map_err(failed())
}

/// Removes a file, or a directory that is empty.
fn remove(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        // Which of the two a file system says for a directory is its own choice.
        Err(Errno::ISDIR | Errno::PERM) if is_directory(dir, name) => {
            unlinkat(dir, name, AtFlags::REMOVEDIR)
        }
        removed => removed,
    }
}

fn is_directory(dir: &OwnedFd, name: &[u8]) -> bool {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// A directory that is being emptied, and the way back up.
struct Walk {
    current: OwnedFd,
    /// From the top of the tree down.
    levels: Vec<Level>,
    buffer: Vec<u8>,
}

/// A directory on the way.
struct Level {
    name: Vec<u8>,
    /// Device and inode of the directory that holds it.
    parent: (u64, u64),
}

impl Walk {
    fn down(dir: &OwnedFd, name: &[u8]) -> Result<Self, Errno> {
        let level = Level { name: name.to_vec(), parent: identity(dir)? };
        let current = enter(dir, name)?;
        Ok(Self { current, levels: vec![level], buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// Removes what can be removed from the current directory, then goes into a directory that
    /// is left, or up when nothing is. Says which entry it failed at.
    fn step(&mut self) -> Result<(), (Vec<u8>, Errno)> {
        let here = |walk: &Self| walk.levels.last().map_or_else(Vec::new, |l| l.name.clone());
        match self.sweep()? {
            Some(name) if self.levels.len() >= MAX_DEPTH => Err((name, Errno::NAMETOOLONG)),
            Some(name) => {
                let parent = identity(&self.current).map_err(|e| (name.clone(), e))?;
                self.current = enter(&self.current, &name).map_err(|e| (name.clone(), e))?;
                self.levels.push(Level { name, parent });
                Ok(())
            }
            None => {
                let failed = |error| (here(self), error);
                let Some(level) = self.levels.last() else { return Ok(()) };
                if self.levels.len() > 1 {
                    let up = enter(&self.current, b"..").map_err(failed)?;
                    if identity(&up).map_err(failed)? != level.parent {
                        // Somebody has moved the directory away.
                        return Err(failed(Errno::BUSY));
                    }
                    match remove(&up, &level.name) {
                        // Something was put into it meanwhile: the next sweep finds it again.
                        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                        Err(error) => return Err(failed(error)),
                    }
                    self.current = up;
                }
                self.levels.pop();
                Ok(())
            }
        }
    }

    /// Removes every entry of the current directory but those that are not empty; the first of
    /// those.
    fn sweep(&mut self) -> Result<Option<Vec<u8>>, (Vec<u8>, Errno)> {
        let unnamed = |error| (b".".to_vec(), error);
        rustix::fs::seek(&self.current, rustix::fs::SeekFrom::Start(0)).map_err(unnamed)?;
        self.buffer.clear();
        let mut entries = RawDir::new(&self.current, self.buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(unnamed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match remove(&self.current, name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_vec())),
                Err(error) => return Err((name.to_vec(), error)),
            }
        }
        Ok(None)
    }
}

/// Opens a directory of the same file system. A mount point is in use.
fn enter(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(dir, name, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => Err(Errno::BUSY),
        opened => opened,
    }
}

fn identity(dir: &OwnedFd) -> Result<(u64, u64), Errno> {
    fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

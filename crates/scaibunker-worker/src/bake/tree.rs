//! The tree of a root file system, and paths that cannot leave it.
//!
//! A path of an archive is resolved as a process whose root is the tree would: symbolic links,
//! absolute ones and such with `..` among them, stay inside. That gives a path without links,
//! which the kernel is then told to open without following any (`openat2`). Only this thread
//! writes to the tree, so nothing changes in between.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, mkdirat, open, openat, openat2,
        readlinkat, statat, unlinkat,
    },
    io::Errno,
};

use super::{job::Fault, limits::Limits};

/// As the kernel counts them.
const MAX_LINKS: usize = 40;

const MAX_PATH_BYTES: usize = 4000;

/// Directories inside each other; each costs a descriptor when the tree is removed.
pub const MAX_DEPTH: usize = 256;

/// The name under which a device waits, in an empty file's attributes, for the file system.
pub const DEVICE_XATTR: &str = "user.scaibunker.device";

/// A directory of the tree, by a path without links or `..`, and what is in it.
#[derive(Debug, Clone)]
pub struct Place {
    pub dir: Rc<OwnedFd>,
    /// Of the directory, from the tree's root, without a leading slash.
    pub path: Vec<u8>,
}

/// A tree that is being filled.
pub struct Tree {
    root: OwnedFd,
    last: Option<Place>,
    /// Bytes on the disk, of files.
    pub used_bytes: u64,
    /// Modification times that the directories get at the end, by inode number.
    pub directory_times: HashMap<u64, i64>,
}

fn io_fault(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |error| match error {
        Errno::NAMETOOLONG => Fault::refused("a name in it is too long"),
        Errno::MLINK => Fault::refused("too many links to one file"),
        _ => Fault::io(what, &error.into()),
    }
}

/// The components of a path; `.` and empty ones are dropped, `..` takes one back.
pub fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut clean: Vec<Vec<u8>> = Vec::new();
    push_components(&mut clean, path);
    if path.contains(&0) {
        return Err(Fault::corrupt("a NUL byte in a path"));
    }
    Ok(clean)
}

fn push_components(clean: &mut Vec<Vec<u8>>, path: &[u8]) {
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(clean.pop()),
            name => clean.push(name.to_vec()),
        }
    }
}

impl Tree {
    /// The tree in this directory, which is its root.
    pub fn open(path: &std::path::Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty())?;
        Ok(Self { root, last: None, used_bytes: 0, directory_times: HashMap::new() })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory that these components name, made if it is missing.
    pub fn enter(&mut self, parents: &[Vec<u8>], limits: &mut Limits) -> Result<Place, Fault> {
        let path = parents.join(&b'/');
        if let Some(last) = self.last.as_ref().filter(|last| last.path == path) {
            return Ok(last.clone());
        }
        let place = match self.open_dir(&path) {
            Ok(dir) => Place { dir: Rc::new(dir), path },
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NAMETOOLONG) => {
                self.resolve(parents, Some(limits))?.ok_or_else(|| Fault::internal("no place"))?
            }
            Err(error) => return Err(io_fault("open a directory")(error)),
        };
        self.last = Some(place.clone());
        Ok(place)
    }

    /// The directory that these components name, if it is there.
    pub fn find(&self, parents: &[Vec<u8>]) -> Result<Option<Place>, Fault> {
        self.resolve(parents, None)
    }

    /// Must be called when a directory or a link was removed or replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }

    fn open_dir(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags, Mode::empty(), inside | ResolveFlags::NO_XDEV)
    }

    /// Goes down component by component and follows links inside the tree.
    fn resolve(
        &self,
        parents: &[Vec<u8>],
        mut make: Option<&mut Limits>,
    ) -> Result<Option<Place>, Fault> {
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut rest: Vec<Vec<u8>> = parents.iter().rev().cloned().collect();
        let mut links = 0;
        let mut dir = self.open_dir(b"").map_err(io_fault("open the tree"))?;
        while let Some(name) = rest.pop() {
            if name == b".." {
                done.pop();
                dir = self.open_dir(&done.join(&b'/')).map_err(io_fault("open a directory"))?;
                continue;
            }
            match kind_of(&dir, &name)? {
                Some(FileType::Directory) => {}
                Some(FileType::Symlink) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Fault::refused("symbolic links in a circle"));
                    }
                    let target = readlinkat(&dir, name.as_slice(), Vec::new())
                        .map_err(io_fault("read a link"))?;
                    if target.as_bytes().starts_with(b"/") {
                        done.clear();
                        dir = self.open_dir(b"").map_err(io_fault("open the tree"))?;
                    }
                    let target = target.as_bytes().split(|byte| *byte == b'/').rev();
                    let steps = target.filter(|step| !step.is_empty() && *step != b".");
                    rest.extend(steps.map(<[u8]>::to_vec));
                    if rest.len() > MAX_PATH_BYTES {
                        return Err(Fault::refused("a path that is too long"));
                    }
                    continue;
                }
                Some(_) if make.is_some() => {
                    return Err(Fault::corrupt("a path leads through something that is a file"));
                }
                Some(_) => return Ok(None),
                None => match make.as_deref_mut() {
                    Some(limits) => self.make_dir(&dir, &name, limits)?,
                    None => return Ok(None),
                },
            }
            done.push(name);
            let path = done.join(&b'/');
            if done.len() > MAX_DEPTH || path.len() > MAX_PATH_BYTES {
                return Err(Fault::refused(format_args!(
                    "a path of more than {MAX_DEPTH} directories or {MAX_PATH_BYTES} bytes"
                )));
            }
            dir = self.open_dir(&path).map_err(io_fault("open a directory"))?;
        }
        Ok(Some(Place { dir: Rc::new(dir), path: done.join(&b'/') }))
    }

    /// For a path whose own directories are not in the archive.
    fn make_dir(&self, dir: &OwnedFd, name: &[u8], limits: &mut Limits) -> Result<(), Fault> {
        limits.count_entry()?;
        mkdirat(dir, name, Mode::from_raw_mode(0o755)).map_err(io_fault("make a directory"))
    }

    /// Removes what has this name, with all that is in it.
    pub fn remove(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
        self.forget();
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(io_fault("look at an entry")(error)),
        };
        let mut flags = AtFlags::empty();
        if is_dir(&stat) {
            let inner = open_inner(dir, name)?;
            for name in names(&inner)? {
                self.remove(inner.as_fd(), &name)?;
            }
            self.directory_times.remove(&stat.st_ino);
            flags = AtFlags::REMOVEDIR;
        } else if stat.st_nlink == 1 {
            self.used_bytes = self.used_bytes.saturating_sub(bytes_on_disk(&stat));
        }
        unlinkat(dir, name, flags).map_err(io_fault("remove an entry"))
    }
}

pub fn open_inner(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).map_err(io_fault("open a directory"))
}

/// The names in a directory; at most as many as entries are allowed.
pub fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Fault> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(io_fault("read a directory"))? {
        let entry = entry.map_err(io_fault("read a directory"))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

pub fn kind_of(dir: impl AsFd, name: &[u8]) -> Result<Option<FileType>, Fault> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(io_fault("look at an entry")(error)),
    }
}

pub fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub fn bytes_on_disk(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

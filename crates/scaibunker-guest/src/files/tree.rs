//! The bunker's tree as one call sees it.
//!
//! Paths are resolved by the kernel inside the bunker's root ([`root_files::open`]); what acts on
//! a directory's entry opens the directory first and then names the entry in it, so that nothing
//! moved meanwhile leads it elsewhere.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Stat, fchmod, fchown, fstat, fstatfs, mkdirat, open,
        openat, readlinkat, statat,
    },
    io::Errno,
    thread::{Gid, Uid},
};
use scaibunker_guest_protocol::{
    GuestErrorKind,
    files::{Entry, FilePath},
};

use super::entry::{entry, printable, printable_bytes};
use crate::{error::AgentError, root::BunkerRoot, root_files};

/// Links that are followed on the way to one file, as in the kernel.
const MAX_LINKS: usize = 40;

/// Magic numbers of file systems whose files are made up as they are read: their sizes are wrong,
/// and nobody can make a file in them.
const PSEUDO: [i64; 9] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x1980_0202, // mqueue
];

/// Permission bits of directories that are made on the way.
const DIRECTORY_MODE: u32 = 0o755;

/// An entry of a directory.
#[derive(Debug)]
pub struct Place {
    pub dir: OwnedFd,
    pub name: Vec<u8>,
}

/// Who owns what a call makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl Owner {
    /// Gives a file away, if it has not got this owner yet.
    pub fn give(self, file: impl AsFd) -> Result<(), Errno> {
        let stat = fstat(&file)?;
        let uid = self.uid.filter(|&uid| uid != stat.st_uid);
        let gid = self.gid.filter(|&gid| gid != stat.st_gid);
        if (uid, gid) == (None, None) {
            return Ok(());
        }
        fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
    }

    /// This owner, and `other` where it says nothing.
    pub fn or(self, other: Self) -> Self {
        Self { uid: self.uid.or(other.uid), gid: self.gid.or(other.gid) }
    }
}

/// The tree, with the rights of the thread that uses it.
#[derive(Debug)]
pub struct Tree {
    root: Arc<BunkerRoot>,
    /// Who gets what is made; nobody when the thread acts for that user anyway.
    new_owner: Owner,
    is_abandoned: Arc<AtomicBool>,
}

impl Tree {
    pub fn new(root: Arc<BunkerRoot>, new_owner: Owner, is_abandoned: Arc<AtomicBool>) -> Self {
        Self { root, new_owner, is_abandoned }
    }

    /// Fails when nobody waits for the call's result any more.
    pub fn check_wanted(&self) -> Result<(), AgentError> {
        if self.is_abandoned.load(Ordering::Relaxed) {
            return Err(AgentError::Conflict("the call was given up".to_owned()));
        }
        Ok(())
    }

    /// Opens what `path` leads to.
    pub fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"/" } else { path };
        root_files::open(self.root.dir(), path, flags, Mode::empty())
    }

    /// Opens a regular file for reading, without touching what is none.
    pub fn open_file(&self, path: &FilePath) -> Result<File, AgentError> {
        let failed = || AgentError::file(format!("read {}", printable(path)));
        let found = self.open(path.as_bytes(), OFlags::PATH).map_err(failed())?;
        let mode = fstat(&found).map_err(failed())?.st_mode;
        expect_file(mode, path)?;
        Ok(reopen(&found, OFlags::RDONLY).map_err(failed())?.into())
    }

    /// Opens a directory for reading.
    pub fn open_directory(&self, path: &FilePath) -> Result<OwnedFd, AgentError> {
        self.open(path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(AgentError::file(format!("open the directory {}", printable(path))))
    }

    /// The entry at `path` itself: a link is not followed.
    pub fn stat(&self, path: &FilePath) -> Result<Entry, AgentError> {
        let failed = || AgentError::file(format!("look at {}", printable(path)));
        let found = self.open(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW).map_err(failed())?;
        let stat = fstat(&found).map_err(failed())?;
        entry(path.clone(), &stat, &found, b"").map_err(failed())
    }

    /// The directory that `path` names an entry of, and the entry's name.
    pub fn place(&self, path: &FilePath) -> Result<Place, AgentError> {
        let (parent, name) = split(path)?;
        let dir = self.open(parent, OFlags::PATH | OFlags::DIRECTORY);
        let failed = AgentError::file(format!("find the directory of {}", printable(path)));
        Ok(Place { dir: dir.map_err(failed)?, name: name.to_vec() })
    }

    /// Where a file that is written at `path` goes: behind the links that are there, with the
    /// directories on the way made.
    pub fn place_for_file(&self, path: &FilePath) -> Result<Place, AgentError> {
        let failed = || AgentError::file(format!("find the place of {}", printable(path)));
        let mut path = path.clone();
        for _ in 0..MAX_LINKS {
            let (parent, name) = split(&path)?;
            let dir = self.make_directories(parent)?;
            let target = match readlinkat(&dir, name, Vec::new()) {
                Ok(target) => target.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(Place { dir, name: name.to_vec() }),
                Err(error) => return Err(failed()(error)),
            };
            // Links in `/proc` do not lead where their text says.
            if target.first() == Some(&b'/') && is_pseudo(&dir) {
                return Err(failed()(Errno::LOOP));
            }
            let next = match target.first() {
                Some(b'/') => target,
                _ => [parent, b"/", &target].concat(),
            };
            path = FilePath::new(next).map_err(|_| failed()(Errno::NAMETOOLONG))?;
        }
        Err(failed()(Errno::LOOP))
    }

    /// Opens the directory at `path`, and makes it and those above it where they are missing.
    pub fn make_directories(&self, path: &[u8]) -> Result<OwnedFd, AgentError> {
        let failed = || AgentError::file(format!("make the directory {}", printable_bytes(path)));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let ends: Vec<usize> = component_ends(path).collect();
        let mut missing = ends.len();
        let mut dir = loop {
            let end = missing.checked_sub(1).map_or(0, |last| ends[last]);
            match self.open(&path[..end], flags) {
                Err(Errno::NOENT) if missing > 0 => missing -= 1,
                opened => break opened.map_err(failed())?,
            }
        };
        for index in missing..ends.len() {
            let start = index.checked_sub(1).map_or(0, |before| ends[before]);
            let name = trim_start(&path[start..ends[index]]);
            self.make_directory(&dir, name, DIRECTORY_MODE, Owner::default()).map_err(failed())?;
            dir = self.open(&path[..ends[index]], flags).map_err(failed())?;
        }
        Ok(dir)
    }

    /// Makes one directory; one that is there already is left as it is.
    pub fn make_directory(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        mode: u32,
        owner: Owner,
    ) -> Result<(), Errno> {
        match mkdirat(dir, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Err(Errno::EXIST) => return Ok(()),
            Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) if is_pseudo(dir) => {
                return Err(Errno::ROFS);
            }
            made => made?,
        }
        let owner = owner.or(self.new_owner);
        if owner == Owner::default() && mode == DIRECTORY_MODE {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(dir, name, flags, Mode::empty())?;
        owner.give(&made)?;
        fchmod(&made, Mode::from_raw_mode(mode))
    }

    /// Who gets what is made, unless the thread's own user does.
    pub fn new_owner(&self) -> Owner {
        self.new_owner
    }
}

impl Place {
    /// What is there; a link is not followed.
    pub fn stat(&self) -> Result<Option<Stat>, Errno> {
        match statat(&self.dir, self.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is there, as the caller named it.
    pub fn entry(&self, path: &FilePath) -> Result<Entry, Errno> {
        let stat = statat(&self.dir, self.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        entry(path.clone(), &stat, &self.dir, &self.name)
    }
}

/// Refuses what is no regular file.
pub fn expect_file(mode: u32, path: &FilePath) -> Result<(), AgentError> {
    let (kind, what) = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => (GuestErrorKind::IsADirectory, "a directory"),
        FileType::CharacterDevice | FileType::BlockDevice => {
            (GuestErrorKind::NotARegularFile, "a device")
        }
        FileType::Fifo => (GuestErrorKind::NotARegularFile, "a pipe"),
        FileType::Socket => (GuestErrorKind::NotARegularFile, "a socket"),
        _ => (GuestErrorKind::NotARegularFile, "no file"),
    };
    Err(AgentError::refused(kind, format!("{} is {what}", printable(path))))
}

/// Opens what a descriptor that can do nothing stands for.
pub fn reopen(found: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    open(own_link(found), flags, Mode::empty())
}

/// A path to an open file, in the agent's own `/proc`.
pub fn own_link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether the files of this file system are made up.
pub fn is_pseudo(fd: impl AsFd) -> bool {
    fstatfs(fd).is_ok_and(|found| PSEUDO.contains(&found.f_type))
}

/// The path of a directory and the name of an entry in it.
fn split(path: &FilePath) -> Result<(&[u8], &[u8]), AgentError> {
    let bytes = trim_end(path.as_bytes());
    let start = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = bytes.split_at(start);
    match name {
        b"" => Err(AgentError::Invalid("the path is that of the root directory".to_owned())),
        b"." | b".." => {
            let path = printable(path);
            Err(AgentError::Invalid(format!("{path} does not name an entry of a directory")))
        }
        name => Ok((parent, name)),
    }
}

/// A path without slashes at its end.
pub fn trim_end(mut path: &[u8]) -> &[u8] {
    while let Some(shorter) = path.strip_suffix(b"/") {
        path = shorter;
    }
    path
}

fn trim_start(mut path: &[u8]) -> &[u8] {
    while let Some(shorter) = path.strip_prefix(b"/") {
        path = shorter;
    }
    path
}

/// Where each component of a path ends.
fn component_ends(path: &[u8]) -> impl Iterator<Item = usize> {
    (1..=path.len())
        .filter(|&end| path[end - 1] != b'/' && path.get(end).is_none_or(|&next| next == b'/'))
}

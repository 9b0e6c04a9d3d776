//! The last walk through a finished tree: what the file system needs room for, which devices it
//! gets, and the times of its directories, which everything before would have changed again.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr_query, openat, statat,
        unlinkat,
    },
    io::Errno,
};

use super::{
    attributes,
    job::Fault,
    tree::{DEVICE_XATTR, Tree, bytes_on_disk, names, open_inner},
    whiteout::join,
};

const BLOCK: u64 = 4096;

/// Longest target that stands in the inode itself.
const MAX_INLINE_LINK: i64 = 59;

/// A device node, which only the file system can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub path: Vec<u8>,
    pub is_block: bool,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    /// Further names of the same node.
    pub links: Vec<Vec<u8>>,
}

/// What is in a tree.
#[derive(Debug, Default)]
pub struct Survey {
    /// Files, directories, devices and the rest, each counted once whatever its names.
    pub inodes: u64,
    /// Blocks of 4 KiB that they take.
    pub blocks: u64,
    /// By the inode numbers of the files that stood for them.
    devices: HashMap<u64, Device>,
    linked: HashSet<u64>,
}

fn fault(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |error| Fault::io(what, &error.into())
}

impl Survey {
    /// Walks the tree, takes the devices out of it and sets the directories' times.
    pub fn of(tree: &Tree) -> Result<Self, Fault> {
        let mut survey = Self::default();
        let stat = rustix::fs::fstat(tree.root()).map_err(fault("look at the tree"))?;
        survey.walk(tree, tree.root(), b"")?;
        let time = tree.directory_times.get(&stat.st_ino).copied().unwrap_or(0);
        attributes::set_time_at(tree.root(), b".", time)?;
        survey.inodes += 1;
        Ok(survey)
    }

    /// In the order of their paths.
    pub fn devices(&self) -> Vec<&Device> {
        let mut devices: Vec<_> = self.devices.values().collect();
        devices.sort_by(|a, b| a.path.cmp(&b.path));
        devices
    }

    fn walk(&mut self, tree: &Tree, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), Fault> {
        let listed =
            dir.try_clone_to_owned().map_err(|error| Fault::io("copy a descriptor", &error))?;
        let mut names = names(&listed)?;
        names.sort();
        let mut name_bytes = 0;
        for name in names {
            // An entry's head, its name, and what is wasted at the end of a block.
            name_bytes += 8 + (name.len() as u64).next_multiple_of(4) + 8;
            let stat = statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(fault("look at an entry"))?;
            self.entry(tree, dir, &name, &stat, &join(path, &name))?;
        }
        // Directories grow block by block, with a checksum at the end of each.
        self.blocks += 1 + name_bytes / (BLOCK - 300);
        Ok(())
    }

    fn entry(
        &mut self,
        tree: &Tree,
        dir: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), Fault> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = open_inner(dir, name)?;
                self.inodes += 1;
                self.blocks += u64::from(flistxattr_query(&inner).is_ok_and(|length| length > 0));
                self.walk(tree, inner.as_fd(), path)?;
                let time = tree.directory_times.get(&stat.st_ino).copied().unwrap_or(0);
                return attributes::set_time_at(dir, name, time);
            }
            FileType::RegularFile if stat.st_size == 0 => {
                if let Some((is_block, major, minor)) = device(dir, name)? {
                    unlinkat(dir, name, AtFlags::empty()).map_err(fault("take a device out"))?;
                    self.device(stat, path, is_block, major, minor);
                    return Ok(());
                }
            }
            FileType::Symlink => self.blocks += u64::from(stat.st_size > MAX_INLINE_LINK),
            _ => {}
        }
        if stat.st_nlink == 1 || self.linked.insert(stat.st_ino) {
            self.inodes += 1;
            // One more for the pieces of a file with holes, or its attributes.
            let blocks = bytes_on_disk(stat).div_ceil(BLOCK);
            self.blocks += blocks + blocks / 64;
        }
        Ok(())
    }

    fn device(&mut self, stat: &Stat, path: &[u8], is_block: bool, major: u32, minor: u32) {
        if let Some(device) = self.devices.get_mut(&stat.st_ino) {
            device.links.push(path.to_vec());
            return;
        }
        self.inodes += 1;
        let device = Device {
            path: path.to_vec(),
            is_block,
            major,
            minor,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            links: Vec::new(),
        };
        self.devices.insert(stat.st_ino, device);
    }
}

/// The device that an empty file stands for.
fn device(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<(bool, u32, u32)>, Fault> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).map_err(fault("open a file"))?;
    let mut value = [0; 64];
    let length = match fgetxattr(&file, DEVICE_XATTR, &mut value) {
        Ok(length) => length,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(error) => return Err(fault("read an attribute")(error)),
    };
    let text = str::from_utf8(&value[..length]).unwrap_or_default();
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let is_block = next() == "b";
    Ok(next().parse().ok().zip(next().parse().ok()).map(|(major, minor)| (is_block, major, minor)))
}

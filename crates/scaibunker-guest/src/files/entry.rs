//! Directory entries as the host hears of them.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{FileType, Stat, readlinkat},
    io::Errno,
};
use scaibunker_guest_protocol::files::{Entry, EntryType, FilePath};

/// The entry at `path`, whose state is `stat`. `name` in `dir` is for reading a link's target;
/// it is empty where `dir` is the link itself.
pub fn entry(path: FilePath, stat: &Stat, dir: &OwnedFd, name: &[u8]) -> Result<Entry, Errno> {
    let kind = kind(stat);
    let symlink_target = match kind {
        EntryType::Symlink => FilePath::new(readlinkat(dir, name, Vec::new())?.into_bytes()).ok(),
        _ => None,
    };
    Ok(Entry {
        path,
        kind,
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_s: stat.st_mtime,
        modified_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        symlink_target,
    })
}

fn kind(stat: &Stat) -> EntryType {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::BlockDevice => EntryType::BlockDevice,
        FileType::CharacterDevice => EntryType::CharDevice,
        FileType::Fifo => EntryType::Fifo,
        FileType::Socket => EntryType::Socket,
        _ => EntryType::File,
    }
}

/// A path for an error text: one line, quoted, and not too long.
pub fn printable(path: &FilePath) -> String {
    printable_bytes(path.as_bytes())
}

/// [`printable`] for a part of a path.
pub fn printable_bytes(path: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    let text = String::from_utf8_lossy(path);
    let mut line: String = text.escape_debug().take(MAX_CHARS).collect();
    if text.escape_debug().nth(MAX_CHARS).is_some() {
        line.push('…');
    }
    format!("`{line}`")
}

//! Files of the bunker as the agent touches them: every path is resolved inside the bunker's
//! root, and nothing it may be (a pipe, a device, an endless file) makes the agent wait.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, ftruncate, openat2, unlinkat},
    io::Errno,
    path::Arg,
};

/// Longest file the agent reads from a bunker; passwd files are far smaller.
const MAX_READ_BYTES: u64 = 1 << 20;

/// A rename beside a path with `..` makes the kernel ask for another attempt.
const MAX_ATTEMPTS: usize = 64;

/// Opens `path` as a process whose root is `root` would, but for the links in `/proc` that lead
/// to a process's own root, files and directories: those would be the agent's.
pub fn open<P: Arg + Copy>(
    root: &OwnedFd,
    path: P,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut flags = flags | OFlags::CLOEXEC;
    if !flags.contains(OFlags::PATH) {
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
    }
    let mut attempts = 1;
    loop {
        match openat2(root, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts < MAX_ATTEMPTS => attempts += 1,
            opened => return opened,
        }
    }
}

fn regular(fd: OwnedFd) -> io::Result<OwnedFd> {
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(fd),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// The text of a file, cut at [`MAX_READ_BYTES`]; empty when there is none.
pub fn read(root: &OwnedFd, path: &str) -> io::Result<String> {
    let fd = match open(root, path, OFlags::RDONLY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(String::new()),
        fd => regular(fd?)?,
    };
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Overwrites a file in place, or makes it. Cutting it to nothing first would have ext4 write
/// the new content out at once.
pub fn write(root: &OwnedFd, path: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let fd = regular(open(root, path, flags, Mode::from_raw_mode(0o644))?)?;
    let written = rustix::io::write(&fd, text.as_bytes())?;
    if written < text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(ftruncate(&fd, text.len() as u64)?)
}

/// Puts a new file where `path` is, if the last part of it is a link too.
pub fn replace(root: &OwnedFd, path: &str, text: &str) -> io::Result<()> {
    let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
    let dir = open(root, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    match unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => write(&dir, name, text),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap().into();
        (dir, root)
    }

    #[test]
    fn links_stay_inside_the_root() {
        let (dir, root) = root();
        fs::write(dir.path().join("inside"), "here").unwrap();
        symlink("/../../inside", dir.path().join("link")).unwrap();
        assert_eq!(read(&root, "/link").unwrap(), "here");
        write(&root, "link", "new").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("inside")).unwrap(), "new");
        assert_eq!(read(&root, "missing").unwrap(), "");
    }

    #[test]
    fn a_replaced_link_is_a_file_and_its_target_stays() {
        let (dir, root) = root();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("target"), "old").unwrap();
        symlink("../target", dir.path().join("etc/name")).unwrap();
        replace(&root, "etc/name", "new").unwrap();
        replace(&root, "etc/other", "new").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("etc/name")).unwrap(), "new");
        assert_eq!(fs::read_to_string(dir.path().join("etc/other")).unwrap(), "new");
        assert_eq!(fs::read_to_string(dir.path().join("target")).unwrap(), "old");
    }

    #[test]
    fn a_pipe_is_an_error_and_no_wait() {
        let (dir, root) = root();
        mkfifoat(CWD, dir.path().join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        assert!(read(&root, "pipe").is_err());
        assert!(write(&root, "pipe", "x").is_err());
        assert!(read(&root, ".").is_err());
    }
}

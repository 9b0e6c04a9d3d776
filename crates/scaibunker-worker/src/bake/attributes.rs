//! Owners, modes, times and extended attributes.
//!
//! Kept are `user.*` and `security.capability` of files and directories. Other namespaces speak of
//! the machine that packed the layer (SELinux labels, `trusted.*` of an overlay) and are dropped.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{
        AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod,
        fchown, flistxattr, fremovexattr, fsetxattr, futimens, utimensat,
    },
    io::Errno,
};

use super::{
    archive::Entry,
    job::Fault,
    limits::{MAX_ID, MAX_XATTR_BYTES},
    tree::DEVICE_XATTR,
};

/// Longest list of names that the kernel gives.
const MAX_LIST_BYTES: usize = 64 << 10;

fn fault(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |error| Fault::io(what, &error.into())
}

fn id(number: u64) -> Result<u32, Fault> {
    let id = u32::try_from(number).ok().filter(|id| *id < MAX_ID);
    id.ok_or_else(|| Fault::refused(format_args!("a file of uid or gid {number}")))
}

/// An ordinary user's helper has fewer ids than the limit.
fn owner_fault(error: Errno) -> Fault {
    match error {
        Errno::INVAL => Fault::refused(
            "a file of a uid or gid that this worker's user has not (see /etc/subuid)",
        ),
        error => fault("set an owner")(error),
    }
}

fn owner(entry: &Entry) -> Result<(Option<Uid>, Option<Gid>), Fault> {
    Ok((Some(Uid::from_raw(id(entry.uid)?)), Some(Gid::from_raw(id(entry.gid)?))))
}

/// What the file system can hold: seconds in 32 bits.
pub fn clamp_time(seconds: i64) -> i64 {
    seconds.clamp(i32::MIN.into(), i32::MAX.into())
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: clamp_time(seconds), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Of an open file or directory. The mode comes after the owner, a change of which takes the
/// setuid bit and the capabilities away.
pub fn set(file: impl AsFd, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = owner(entry)?;
    fchown(&file, uid, gid).map_err(owner_fault)?;
    fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(fault("set a mode"))?;
    set_xattrs(file.as_fd(), &entry.xattrs)?;
    futimens(&file, &times(entry.mtime)).map_err(fault("set a time"))
}

/// Of what cannot be opened: links and fifos.
pub fn set_at(dir: BorrowedFd<'_>, name: &[u8], entry: &Entry, is_link: bool) -> Result<(), Fault> {
    let (uid, gid) = owner(entry)?;
    chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(owner_fault)?;
    if !is_link {
        chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(fault("set a mode"))?;
    }
    set_time_at(dir, name, entry.mtime)
}

pub fn set_time_at(dir: BorrowedFd<'_>, name: &[u8], seconds: i64) -> Result<(), Fault> {
    utimensat(dir, name, &times(seconds), AtFlags::SYMLINK_NOFOLLOW).map_err(fault("set a time"))
}

/// Removes those that a directory of a lower layer had.
pub fn clear_xattrs(file: BorrowedFd<'_>) -> Result<(), Fault> {
    let mut list = vec![0; MAX_LIST_BYTES];
    let length = match flistxattr(file, list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(fault("list attributes")(error)),
    };
    let names = list[..length].split(|byte| *byte == 0);
    for name in names.filter(|name| !name.is_empty() && is_kept(name)) {
        fremovexattr(file, name).map_err(fault("remove an attribute"))?;
    }
    Ok(())
}

fn is_kept(name: &[u8]) -> bool {
    let is_ours = name == DEVICE_XATTR.as_bytes();
    (name.starts_with(b"user.") && !is_ours) || name == b"security.capability"
}

fn set_xattrs(file: BorrowedFd<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Fault> {
    let kept = xattrs.iter().filter(|(name, _)| is_kept(name));
    if kept.clone().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_XATTR_BYTES {
        return Err(Fault::refused(format_args!(
            "extended attributes of more than {MAX_XATTR_BYTES} bytes on one file"
        )));
    }
    for (name, value) in kept {
        match fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::RANGE | Errno::PERM) => {
                let name = String::from_utf8_lossy(name);
                return Err(Fault::corrupt(format_args!("the attribute `{name}` is malformed")));
            }
            Err(error) => return Err(fault("set an attribute")(error)),
        }
    }
    Ok(())
}

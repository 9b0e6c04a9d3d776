//! Writing a file.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{Access, AtFlags, Mode, OFlags, Stat, accessat, fchmod, openat, renameat, unlinkat},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use scaibunker_guest_protocol::files::{Entry, FilePath, WriteCall};

use super::{
    bulk_file::BulkFile,
    entry::printable,
    transfer::BodyReader,
    tree::{Owner, Place, Tree, expect_file, is_pseudo},
};
use crate::error::AgentError;

/// Permission bits of a new file.
pub const FILE_MODE: u32 = 0o644;

/// Permission bits of any file.
const MODE_BITS: u32 = 0o7777;

/// Writes beside the file's place and renames at the end, so that nobody sees half a file and a
/// body that breaks off changes nothing. Links at the place are followed, as by a shell's `>`.
pub fn write(tree: &Tree, call: &WriteCall, body: &mut BodyReader) -> Result<Entry, AgentError> {
    let failed = || AgentError::file(format!("write {}", printable(&call.path)));
    check(call)?;
    let place = tree.place_for_file(&call.path)?;
    let existing = existing(&place, &call.path)?;
    let file = NewFile::create(&place.dir).map_err(failed())?;
    copy(body, &file.file).map_err(AgentError::file(format!("write {}", printable(&call.path))))?;
    let kept = |stat: &Stat| Owner { uid: Some(stat.st_uid), gid: Some(stat.st_gid) };
    let owner = existing.as_ref().map_or(tree.new_owner(), kept);
    Owner { uid: call.uid, gid: call.gid }.or(owner).give(&file.file).map_err(failed())?;
    let kept = existing.map(|stat| stat.st_mode & MODE_BITS);
    let mode = call.mode.or(kept).unwrap_or(FILE_MODE);
    fchmod(&file.file, Mode::from_raw_mode(mode)).map_err(failed())?;
    file.rename(&place.dir, &place.name).map_err(failed())?;
    place.entry(&call.path).map_err(failed())
}

/// Refuses permission bits and ids that nothing can have: to the kernel, the largest number means
/// "unchanged".
pub fn check(call: &WriteCall) -> Result<(), AgentError> {
    if let Some(mode) = call.mode.filter(|mode| mode & !MODE_BITS != 0) {
        return Err(AgentError::Invalid(format!("{mode:o} are no permission bits")));
    }
    if [call.uid, call.gid].contains(&Some(u32::MAX)) {
        return Err(AgentError::Invalid(format!("{} is nobody's id", u32::MAX)));
    }
    Ok(())
}

/// The file that is replaced, if the caller may write to it.
fn existing(place: &Place, path: &FilePath) -> Result<Option<Stat>, AgentError> {
    let failed = || AgentError::file(format!("replace {}", printable(path)));
    let Some(stat) = place.stat().map_err(failed())? else { return Ok(None) };
    expect_file(stat.st_mode, path)?;
    accessat(&place.dir, place.name.as_slice(), Access::WRITE_OK, AtFlags::EACCESS)
        .map_err(failed())?;
    Ok(Some(stat))
}

fn copy(body: &mut BodyReader, file: &File) -> io::Result<()> {
    let mut file = BulkFile::new(file);
    while let Some(pieces) = body.next_batch()? {
        for piece in pieces {
            file.write_all(&piece)?;
        }
    }
    file.flush()
}

/// A file without its name yet; removed unless it gets one.
#[derive(Debug)]
pub struct NewFile<'a> {
    dir: &'a OwnedFd,
    name: Option<String>,
    pub file: File,
}

impl<'a> NewFile<'a> {
    /// Makes a file in `dir` that nobody else can open or find by name.
    pub fn create(dir: &'a OwnedFd) -> Result<Self, Errno> {
        let mut random = [0; 16];
        getrandom(&mut random[..], GetRandomFlags::empty())?;
        let name = format!(".scaibunker-{:032x}", u128::from_ne_bytes(random));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(dir, &*name, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) if is_pseudo(dir) => Err(Errno::ROFS),
            opened => Ok(Self { dir, name: Some(name), file: opened?.into() }),
        }
    }

    /// Gives it its name, in place of what has that name.
    pub fn rename(mut self, dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        if let Some(own_name) = &self.name {
            renameat(self.dir, &**own_name, dir, name)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What is left of it cannot be told to anybody.
            let _ = unlinkat(self.dir, &**name, AtFlags::empty());
        }
    }
}

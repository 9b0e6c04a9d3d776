//! Applies a layer's entries to the tree, as `umoci unpack` does.

use std::{
    io::{self, Read},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, SeekFrom, XattrFlags, fsetxattr, fstat, ftruncate, linkat,
        mkdirat, mknodat, openat, seek, symlinkat,
    },
    io::Errno,
};

use super::{
    archive::{Archive, Entry, Kind},
    attributes,
    job::Fault,
    limits::Limits,
    sparse::{Piece, SparseMap},
    tree::{DEVICE_XATTR, Place, Tree, bytes_on_disk, components, kind_of, open_inner},
    whiteout::{self, Brought, Whiteout, join},
};

/// Runs of zeros of this length become holes.
const HOLE_BYTES: usize = 4096;

const COPY_BYTES: usize = 256 << 10;

/// Unpacks one layer on top of what the tree holds. `tick` is called after every entry.
pub fn unpack<R: Read>(
    stream: R,
    tree: &mut Tree,
    limits: &mut Limits,
    tick: &mut dyn FnMut(),
) -> Result<(), Fault> {
    let mut archive = Archive::new(stream);
    let mut layer =
        Layer { tree, limits, brought: Brought::default(), buffer: vec![0; COPY_BYTES] };
    while let Some(entry) = archive.next().map_err(|error| stream_fault(&error))? {
        layer.limits.count_entry()?;
        layer.apply(&entry, &mut archive)?;
        tick();
    }
    archive.finish().map_err(|error| stream_fault(&error))
}

/// A failed read: of a stream that is damaged, or that has no end.
fn stream_fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::FileTooLarge => Fault::refused("the layers unpack to too many bytes"),
        io::ErrorKind::UnexpectedEof => Fault::corrupt("it ends too early"),
        _ => match error.raw_os_error() {
            Some(_) => Fault::io("read a layer", error),
            None => Fault::corrupt(error),
        },
    }
}

fn fault(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |error| match error {
        Errno::NAMETOOLONG => Fault::refused("a name or a link in it is too long"),
        Errno::FBIG => Fault::refused("a file is too large"),
        error => Fault::io(what, &error.into()),
    }
}

struct Layer<'a> {
    tree: &'a mut Tree,
    limits: &'a mut Limits,
    brought: Brought,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    fn apply(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Fault> {
        let mut parents = components(&entry.path)?;
        let Some(name) = parents.pop() else { return self.apply_to_root(entry) };
        if let Some(whiteout) = Whiteout::parse(&name)? {
            return self.white_out(&parents, &whiteout);
        }
        let place = self.tree.enter(&parents, self.limits)?;
        let found = kind_of(&place.dir, &name)?;
        let stays = found == Some(FileType::Directory) && entry.kind == Kind::Directory;
        if found.is_some() && !stays {
            self.tree.remove(place.dir.as_fd(), &name)?;
        }
        self.make(entry, &place, &name, stays, data)?;
        self.brought.add(&join(&place.path, &name));
        Ok(())
    }

    fn apply_to_root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Directory {
            return Err(Fault::corrupt("the root is not a directory"));
        }
        let root = self.tree.root().try_clone_to_owned();
        let root = root.map_err(|error| Fault::io("copy a descriptor", &error))?;
        self.set_directory(&root, entry)
    }

    fn white_out(&mut self, parents: &[Vec<u8>], whiteout: &Whiteout<'_>) -> Result<(), Fault> {
        let Some(place) = self.tree.find(parents)? else { return Ok(()) };
        let dir = place.dir.as_fd();
        match whiteout {
            Whiteout::Of(name) => {
                whiteout::remove(self.tree, &self.brought, dir, &place.path, name)
            }
            Whiteout::Opaque => {
                whiteout::remove_contents(self.tree, &self.brought, dir, &place.path)
            }
            Whiteout::Nothing => Ok(()),
        }
    }

    fn make(
        &mut self,
        entry: &Entry,
        place: &Place,
        name: &[u8],
        exists: bool,
        data: &mut dyn Read,
    ) -> Result<(), Fault> {
        let dir = place.dir.as_fd();
        match &entry.kind {
            Kind::Directory => {
                if !exists {
                    mkdirat(dir, name, Mode::RWXU).map_err(fault("make a directory"))?;
                }
                self.set_directory(&open_inner(dir, name)?, entry)
            }
            Kind::File(map) => {
                let file = create(dir, name)?;
                self.write(&file, entry, map.as_ref(), data)?;
                attributes::set(&file, entry)?;
                let stat = fstat(&file).map_err(fault("look at a file"))?;
                self.tree.used_bytes += bytes_on_disk(&stat);
                self.limits.check_used(self.tree.used_bytes)
            }
            Kind::Symlink(target) => {
                symlinkat(target.as_slice(), dir, name).map_err(|error| match error {
                    Errno::NOENT | Errno::INVAL => Fault::corrupt("a symbolic link to nothing"),
                    error => fault("make a link")(error),
                })?;
                attributes::set_at(dir, name, entry, true)
            }
            Kind::HardLink(target) => self.link(target, dir, name),
            Kind::Fifo => {
                mknodat(dir, name, FileType::Fifo, Mode::RWXU, 0).map_err(fault("make a fifo"))?;
                attributes::set_at(dir, name, entry, false)
            }
            Kind::Device { is_block, major, minor } => {
                let file = create(dir, name)?;
                attributes::set(&file, entry)?;
                let kind = if *is_block { 'b' } else { 'c' };
                let device = format!("{kind} {major} {minor}");
                fsetxattr(&file, DEVICE_XATTR, device.as_bytes(), XattrFlags::empty())
                    .map_err(fault("record a device"))
            }
        }
    }

    fn set_directory(&mut self, dir: &OwnedFd, entry: &Entry) -> Result<(), Fault> {
        attributes::clear_xattrs(dir.as_fd())?;
        attributes::set(dir, entry)?;
        let stat = fstat(dir).map_err(fault("look at a directory"))?;
        self.tree.directory_times.insert(stat.st_ino, entry.mtime);
        Ok(())
    }

    fn link(&mut self, target: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
        let missing = || Fault::corrupt("a hard link to something that is not there");
        let mut parents = components(target)?;
        let target = parents.pop().ok_or_else(missing)?;
        let place = self.tree.find(&parents)?.ok_or_else(missing)?;
        linkat(&place.dir, target, dir, name, AtFlags::empty()).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => missing(),
            Errno::PERM => Fault::corrupt("a hard link to a directory"),
            Errno::MLINK => Fault::refused("too many links to one file"),
            error => fault("make a hard link")(error),
        })
    }

    fn write(
        &mut self,
        file: &OwnedFd,
        entry: &Entry,
        map: Option<&SparseMap>,
        data: &mut dyn Read,
    ) -> Result<(), Fault> {
        let whole = [Piece { offset: 0, length: entry.stored }];
        let (pieces, size) = match map {
            Some(map) => (map.pieces.as_slice(), map.size),
            None => (whole.as_slice(), entry.stored),
        };
        self.limits.count_logical(size)?;
        let mut written = 0;
        for piece in pieces {
            self.write_piece(file, *piece, data, &mut written)?;
        }
        ftruncate(file, size).map_err(|error| match error {
            Errno::INVAL => Fault::refused("a file is too large"),
            error => fault("set a file's size")(error),
        })
    }

    fn write_piece(
        &mut self,
        file: &OwnedFd,
        piece: Piece,
        data: &mut dyn Read,
        written: &mut u64,
    ) -> Result<(), Fault> {
        let Piece { mut offset, mut length } = piece;
        while length > 0 {
            let count = self.buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let chunk = &mut self.buffer[..count];
            data.read_exact(chunk).map_err(|error| stream_fault(&error))?;
            for run in data_runs(chunk) {
                seek(file, SeekFrom::Start(offset + run.start as u64))
                    .map_err(fault("seek in a file"))?;
                write_all(file, &chunk[run.clone()])?;
                *written += run.len() as u64;
            }
            self.limits.check_used(self.tree.used_bytes + *written)?;
            offset += count as u64;
            length -= count as u64;
        }
        Ok(())
    }
}

fn create(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(fault("make a file"))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Fault> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(fault("write a file")(error)),
        }
    }
    Ok(())
}

/// The parts of a chunk that are not zeros only.
fn data_runs(chunk: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, block) in chunk.chunks(HOLE_BYTES).enumerate() {
        if is_zero(block) {
            continue;
        }
        let start = index * HOLE_BYTES;
        match runs.last_mut().filter(|last| last.end == start) {
            Some(last) => last.end += block.len(),
            None => runs.push(start..start + block.len()),
        }
    }
    runs
}

/// Compares with itself one byte on, which the C library's `memcmp` does at memory speed in
/// every build.
pub fn is_zero(block: &[u8]) -> bool {
    block.first().is_none_or(|first| *first == 0)
        && block.get(1..).is_none_or(|rest| rest == &block[..block.len() - 1])
}

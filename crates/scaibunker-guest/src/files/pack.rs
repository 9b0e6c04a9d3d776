//! A directory as a tar archive.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
    sync::Arc,
};

use http::{Response, StatusCode, header};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};
use scaibunker_guest_protocol::files::FileCall;
use tar::{Builder, EntryType, Header};
use tokio::sync::oneshot;

use super::{
    entry::{printable, printable_bytes},
    threads::{self, FileThreads},
    transfer::outgoing,
    tree::Tree,
};
use crate::{body::Body, error::AgentError, root::BunkerRoot};

/// Deepest directory; each level on the way down costs a descriptor.
const MAX_DEPTH: usize = 128;

const BUFFER_BYTES: usize = 8 * 1024;

/// Answers with the archive. A failure before its first piece is an answer of its own, a later
/// one cuts the body off.
pub async fn download(
    threads: &FileThreads,
    root: Arc<BunkerRoot>,
    call: FileCall,
) -> Result<Response<Body>, AgentError> {
    let (sender, ended) = oneshot::channel();
    let (writer, mut pieces) = outgoing();
    let permit = threads.permit_for_call().await?;
    threads::start(permit, move || {
        let mut builder = Builder::new(writer);
        let packed = threads::enter(root, &call.rights, Arc::default())
            .and_then(|tree| pack(&tree, &call, &mut builder));
        let is_whole = packed.is_ok();
        // Nobody waits for this once the body has begun.
        let _ = sender.send(packed);
        if !is_whole {
            builder.get_ref().cut_off();
        }
    })?;
    let cut_short = || AgentError::Conflict("the call was cut short".to_owned());
    let Some(Ok(first)) = pieces.recv().await else {
        ended.await.map_err(|_| cut_short())??;
        return Err(cut_short());
    };
    let body = Body::Transfer { first: Some(first), rest: pieces };
    Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, "application/x-tar")
        .body(body)
        .map_err(|e| AgentError::io("answer")(io::Error::other(e)))
}

/// Writes all that is in a directory, and in the same file system: of what is mounted below it there is the
/// empty directory, as a backup of the root has it.
pub fn pack<W: Write>(tree: &Tree, call: &FileCall, to: &mut Builder<W>) -> Result<(), AgentError> {
    let directory = tree.open_directory(&call.path)?;
    let failed = |(path, error): (Vec<u8>, io::Error)| {
        let what = format!("pack {} of {}", printable_bytes(&path), printable(&call.path));
        AgentError::file(what)(error)
    };
    let device = fstat(&directory).map_err(|error| failed((Vec::new(), error.into())))?.st_dev;
    add_directory(&directory, device, &[], 0, to).map_err(failed)?;
    to.finish().and_then(|()| to.get_mut().flush()).map_err(|error| failed((Vec::new(), error)))
}

/// Adds all entries of a directory. Says at which one it failed.
fn add_directory<W: Write>(
    dir: &OwnedFd,
    device: u64,
    path: &[u8],
    depth: usize,
    to: &mut Builder<W>,
) -> Result<(), (Vec<u8>, io::Error)> {
    let here = |error: Errno| (path.to_vec(), io::Error::from(error));
    if depth > MAX_DEPTH {
        return Err(here(Errno::NAMETOOLONG));
    }
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(here)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let child = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
        match add_entry(dir, device, name, &child, to) {
            Ok(None) => {}
            Ok(Some(directory)) => add_directory(&directory, device, &child, depth + 1, to)?,
            // Gone since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((child, error)),
        }
    }
    Ok(())
}

/// Adds one entry; a directory of the same device is returned, open, for what is in it.
fn add_entry<W: Write>(
    dir: &OwnedFd,
    device: u64,
    name: &[u8],
    path: &[u8],
    to: &mut Builder<W>,
) -> io::Result<Option<OwnedFd>> {
    let archive_path = Path::new(OsStr::from_bytes(path));
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let directory = openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty())?;
            to.append_data(&mut header(&stat, EntryType::Directory), archive_path, io::empty())?;
            Ok((fstat(&directory)?.st_dev == device).then_some(directory))
        }
        FileType::RegularFile => {
            let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = File::from(openat(dir, name, flags, Mode::empty())?);
            let stat = fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(None);
            }
            let header = &mut header(&stat, EntryType::Regular);
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            header.set_size(size);
            to.append_data(header, archive_path, Exactly { file, left: size })?;
            Ok(None)
        }
        FileType::Symlink => {
            let target = readlinkat(dir, name, Vec::new())?.into_bytes();
            let mut header = header(&stat, EntryType::Symlink);
            if header.set_link_name_literal(&target).is_ok() {
                to.append_data(&mut header, archive_path, io::empty())?;
            } else {
                let target = Path::new(OsStr::from_bytes(&target));
                to.append_link(&mut header, archive_path, target)?;
            }
            Ok(None)
        }
        // Devices, pipes and sockets mean nothing elsewhere.
        _ => Ok(None),
    }
}

fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// As much of a file as its header says, whether it grows or not; fails where it shrinks.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read(&mut buf[..most])?;
        if count == 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

//! A local directory as tar, while it is read.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    mem,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::stream;
use tar::{Builder, EntryType, Header};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::client::Content;

/// Bytes that are collected before they are sent on, and pieces that wait for that.
const PIECE: usize = 256 * 1024;
const WAITING_PIECES: usize = 4;

/// What became of a directory.
#[derive(Debug, Default)]
pub struct Packed {
    /// Pipes, sockets and devices, which are left out.
    pub left_out: u64,
}

/// The entries of `directory` as a tar, and the task that reads them. `count` hears of the bytes.
///
/// Links are kept as links. Owners are not kept: what arrives belongs to the bunker's user.
pub fn pack(
    directory: PathBuf,
    count: impl Fn(u64) + Send + 'static,
) -> (Content, JoinHandle<io::Result<Packed>>) {
    let (pieces, mut sent) = mpsc::channel(WAITING_PIECES);
    let task = tokio::task::spawn_blocking(move || {
        let mut writer = PieceWriter { pieces, piece: Vec::with_capacity(PIECE), count };
        let packed = write(&directory, &mut writer);
        if packed.is_err() {
            // Without this the tar would look like a whole one.
            writer.fail();
        }
        packed
    });
    let pieces = stream::poll_fn(move |context| sent.poll_recv(context));
    (Content::stream(None, pieces), task)
}

fn write(directory: &Path, writer: impl Write) -> io::Result<Packed> {
    let mut tar = Builder::new(writer);
    let mut packed = Packed::default();
    let mut directories = vec![PathBuf::new()];
    while let Some(below) = directories.pop() {
        let here = directory.join(&below);
        for entry in fs::read_dir(&here).map_err(|error| at(&here, &error))? {
            let name = below.join(entry.map_err(|error| at(&here, &error))?.file_name());
            let path = directory.join(&name);
            let added = add(&mut tar, &path, &name).map_err(|error| at(&path, &error))?;
            match added {
                Added::Directory => directories.push(name),
                Added::Nothing => packed.left_out += 1,
                Added::Entry => {}
            }
        }
    }
    tar.into_inner()?.flush()?;
    Ok(packed)
}

enum Added {
    Directory,
    Entry,
    Nothing,
}

fn add(tar: &mut Builder<impl Write>, path: &Path, name: &Path) -> io::Result<Added> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        tar.append_data(&mut header(&metadata, EntryType::Directory, 0), name, io::empty())?;
        return Ok(Added::Directory);
    }
    if kind.is_symlink() {
        let mut header = header(&metadata, EntryType::Symlink, 0);
        tar.append_link(&mut header, name, fs::read_link(path)?)?;
        return Ok(Added::Entry);
    }
    if !kind.is_file() {
        return Ok(Added::Nothing);
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let bytes = Exactly { file, left: metadata.len() };
    tar.append_data(&mut header(&metadata, EntryType::Regular, metadata.len()), name, bytes)?;
    Ok(Added::Entry)
}

/// Without an owner: this machine's users are not the bunker's.
fn header(metadata: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(size);
    header
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A file of which as much is read as was announced, whatever happens to it meanwhile.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it shrank while it was read",
            ));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Sends what is written on in pieces; waits while nobody takes them.
struct PieceWriter<C> {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    count: C,
}

impl<C> PieceWriter<C> {
    fn fail(&mut self) {
        let broken = io::Error::other("the directory could not be read to its end");
        let _ = self.pieces.blocking_send(Err(broken));
    }
}

impl<C: Fn(u64)> Write for PieceWriter<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        (self.count)(piece.len() as u64);
        let sent = self.pieces.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

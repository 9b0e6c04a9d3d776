//! From this machine into a bunker.

use std::{
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use scaibunker_api::file::{CommitRequest, FileType, MAX_PUT_BYTES};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
};
use tokio_util::io::ReaderStream;

use super::{
    Copying, Place, failed, here, pack,
    place::{join, name_of, target, without_slashes},
    shown,
};
use crate::{
    client::{ClientError, Content},
    exit::Failure,
    output::Progress,
};

/// Bytes read from a file at a time.
const PIECE: usize = 256 * 1024;

/// What is at the destination.
enum Found {
    Nothing,
    Directory,
    Other,
}

/// Copies a file, a directory or standard input to `to`; into it, if it is a directory.
pub async fn into_bunker(copying: &Copying<'_>, from: &Place, to: &[u8]) -> Result<(), Failure> {
    let Place::Local(path) = from else {
        let to = copying.place_for(None, to).await?;
        return copying.stream(tokio::io::stdin(), None, "standard input", &to).await;
    };
    let what = path.display().to_string();
    let metadata = here(|| format!("cannot read {what}"), tokio::fs::metadata(path).await)?;
    if metadata.is_dir() {
        return copying.directory(path, to).await;
    }
    let to = copying.place_for(name_of(path.as_os_str().as_bytes()), to).await?;
    let file = here(|| format!("cannot read {what}"), File::open(path).await)?;
    let mode = metadata.is_file().then(|| metadata.mode() & 0o777);
    if !metadata.is_file() || metadata.len() == 0 {
        // A pipe, a device, or one of those files that are longer than they say.
        return copying.stream(file, mode, &what, &to).await;
    }
    copying.file(file, metadata.len(), mode, &what, &to).await
}

impl Copying<'_> {
    /// Where a copy with this name goes.
    async fn place_for(&self, name: Option<&[u8]>, to: &[u8]) -> Result<Vec<u8>, Failure> {
        let is_marked = to.ends_with(b"/");
        match (self.look_at(to).await?, name) {
            (Found::Directory, Some(name)) => Ok(join(to, name)),
            (Found::Nothing, Some(name)) if is_marked => Ok(join(to, name)),
            (Found::Other, _) if is_marked => {
                let to = shown(without_slashes(to));
                Err(anyhow!(
                    "{to} in the bunker is not a directory; leave out the slash at its end"
                )
                .into())
            }
            (Found::Directory, None) => {
                Err(anyhow!("{} in the bunker is a directory; name the file in it", shown(to))
                    .into())
            }
            (Found::Nothing | Found::Other, _) => Ok(to.to_vec()),
        }
    }

    async fn look_at(&self, path: &[u8]) -> Result<Found, Failure> {
        let (client, bunker) = (self.client, self.bunker);
        let path = target(path);
        let looked = async {
            Ok(match client.stat(bunker, path).await?.kind {
                FileType::Directory => Found::Directory,
                FileType::Symlink if client.is_directory(bunker, path).await? => Found::Directory,
                _ => Found::Other,
            })
        };
        match looked.await {
            Err(ClientError::Refused(refusal)) if refusal.code == "FILE_NOT_FOUND" => {
                Ok(Found::Nothing)
            }
            looked => looked.map_err(|error| {
                failed(&format!("cannot look at {} in the bunker", shown(path)), error)
            }),
        }
    }

    /// Sends bytes whose number is not known before, by way of a file that has no name.
    async fn stream(
        &self,
        mut from: impl AsyncRead + Unpin,
        mode: Option<u32>,
        what: &str,
        to: &[u8],
    ) -> Result<(), Failure> {
        let spool = tempfile::tempfile().context("cannot make a temporary file; set TMPDIR")?;
        let mut spool = File::from_std(spool);
        let progress = self.output.byte_progress(&format!("reading {what}"), None);
        let count = progress.counter();
        let (mut piece, mut size) = (vec![0; PIECE], 0);
        loop {
            let read = here(|| format!("cannot read {what}"), from.read(&mut piece).await)?;
            if read == 0 {
                break;
            }
            let written = spool.write_all(&piece[..read]).await;
            here(|| "cannot write a temporary file; set TMPDIR".to_owned(), written)?;
            size += read as u64;
            count(read as u64);
        }
        drop(progress);
        let written = spool.flush().await;
        here(|| "cannot write a temporary file; set TMPDIR".to_owned(), written)?;
        here(|| "cannot read a temporary file".to_owned(), spool.rewind().await)?;
        self.file(spool, size, mode, what, to).await
    }

    /// Sends a file in one piece, or as an upload where it is too large for that.
    async fn file(
        &self,
        file: File,
        size: u64,
        mode: Option<u32>,
        what: &str,
        to: &[u8],
    ) -> Result<(), Failure> {
        let (client, bunker) = (self.client, self.bunker);
        let purpose = format!("cannot copy {what} to {} in the bunker", shown(to));
        let failed = |error| failed(&purpose, error);
        let progress = self.output.byte_progress(what, Some(size));
        let content = content(file, size, &progress);
        if size <= MAX_PUT_BYTES {
            client.write_file(bunker, to, mode, content).await.map_err(failed)?;
            return Ok(());
        }
        let dest_path = String::from_utf8(to.to_vec()).map_err(|_| {
            anyhow!("{purpose}: a file this large needs a name that is UTF-8; rename it afterwards")
        })?;
        let upload = client.begin_upload(bunker, size).await.map_err(failed)?;
        client.send_upload(&upload, content).await.map_err(failed)?;
        progress.say("waiting for the bunker to take it");
        let mode = mode.map(|mode| format!("{mode:04o}"));
        let commit = CommitRequest { key: upload.key, dest_path, mode, uid: None, gid: None };
        client.commit_upload(bunker, &commit, size).await.map_err(failed)?;
        Ok(())
    }

    /// Copies a directory: to `to`, or into it if that is a directory; its entries alone if it has
    /// no name of its own.
    async fn directory(&self, path: &Path, to: &[u8]) -> Result<(), Failure> {
        let (client, bunker) = (self.client, self.bunker);
        let to = match (self.look_at(to).await?, name_of(path.as_os_str().as_bytes())) {
            (Found::Directory, Some(name)) => join(to, name),
            (Found::Other, _) => {
                let message = "is not a directory, which cannot be put in its place; name another \
                               place, or remove it first";
                return Err(anyhow!("{} in the bunker {message}", shown(to)).into());
            }
            _ => to.to_vec(),
        };
        let what = path.display().to_string();
        let progress = self.output.byte_progress(&what, None);
        let (tar, packing) = pack::pack(path.to_owned(), progress.counter());
        let sent = client.write_directory(bunker, &to, tar).await;
        let packed = packing.await.context("the directory's reader crashed")?;
        drop(progress);
        match (packed, sent) {
            (Err(error), _) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::new(error).context(format!("cannot read {what}")).into())
            }
            (_, Err(error)) => {
                Err(failed(&format!("cannot copy {what} to {} in the bunker", shown(&to)), error))
            }
            (Ok(packed), Ok(_)) => {
                self.tell_left_out(packed.left_out);
                Ok(())
            }
            (Err(error), Ok(_)) => Err(anyhow::Error::new(error).into()),
        }
    }

    pub(super) fn tell_left_out(&self, count: u64) {
        if count > 0 {
            self.output.note(&format!("{count} pipes, sockets or devices were left out"));
        }
    }
}

fn content(file: File, size: u64, progress: &Progress) -> Content {
    let count = progress.counter();
    // What is appended to the file meanwhile is not part of it.
    let pieces = ReaderStream::with_capacity(file.take(size), PIECE);
    let pieces = pieces.inspect(move |piece| {
        if let Ok(piece) = piece {
            count(piece.len() as u64);
        }
    });
    Content::stream(Some(size), pieces)
}

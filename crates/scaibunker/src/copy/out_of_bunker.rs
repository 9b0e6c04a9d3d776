//! From a bunker to this machine.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _};
use scaibunker_api::file::{FileEntry, FileType};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{
    Copying, Place, failed, here,
    place::{self, join, name_of},
    shown, unpack,
};
use crate::{client::Download, exit::Failure, output};

/// Mode of a copy where the original's is not known, before the umask.
const DEFAULT_MODE: u32 = 0o666;

/// Copies a file or directory to `to`; into it, if it is a directory. Standard output gets a
/// file's bytes, or a directory as tar.
pub async fn out_of_bunker(copying: &Copying<'_>, from: &[u8], to: &Place) -> Result<(), Failure> {
    let (client, bunker) = (copying.client, copying.bunker);
    let purpose = format!("cannot copy {} from the bunker", shown(from));
    let failed = |error| failed(&purpose, error);
    let path = place::target(from);
    let entry = client.stat(bunker, path).await.map_err(failed)?;
    let is_directory = match entry.kind {
        FileType::Directory => true,
        FileType::Symlink => client.is_directory(bunker, path).await.map_err(failed)?,
        _ => false,
    };
    let download = if is_directory {
        client.read_directory(bunker, path).await
    } else {
        client.read_file(bunker, path).await
    };
    let download = download.map_err(failed)?;
    match to {
        Place::Local(to) if is_directory => copying.save_directory(download, from, to).await,
        Place::Local(to) => copying.save_file(download, from, mode_of(&entry), to).await,
        _ => {
            let stdout = tokio::io::stdout();
            copying.pass(download, from, stdout).await?.map_err(output::write_failed)
        }
    }
}

/// The mode of a link is not that of the file it leads to.
fn mode_of(entry: &FileEntry) -> u32 {
    let mode = u32::from_str_radix(&entry.mode, 8).ok();
    mode.filter(|_| entry.kind == FileType::File).map_or(DEFAULT_MODE, |mode| mode & 0o777)
}

impl Copying<'_> {
    /// Writes a file beside its place and puts it there once it is whole.
    async fn save_file(
        &self,
        download: Download,
        from: &[u8],
        mode: u32,
        to: &Path,
    ) -> Result<(), Failure> {
        let to = place_for(from, to)?;
        let cannot = || format!("cannot write {}", to.display());
        // What is no file, such as /dev/null, is written to and stays what it is.
        if fs::metadata(&to).is_ok_and(|found| !found.is_file()) {
            let file = tokio::fs::OpenOptions::new().write(true).open(&to).await;
            let file = here(cannot, file)?;
            return here(cannot, self.pass(download, from, file).await?);
        }
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let beside = tempfile::Builder::new()
            .prefix(".scaibunker-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory)
            .with_context(|| {
                format!("cannot write in {}; make it with `mkdir -p`", directory.display())
            })?;
        let file = tokio::fs::File::from_std(here(cannot, beside.as_file().try_clone())?);
        here(cannot, self.pass(download, from, file).await?)?;
        beside.persist(&to).map_err(|error| error.error).with_context(cannot)?;
        Ok(())
    }

    /// Passes the bytes on. The outer error is the bunker's side, the inner one `to`'s.
    async fn pass(
        &self,
        download: Download,
        from: &[u8],
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<io::Result<()>, Failure> {
        let progress = self.output.byte_progress(&shown(from), download.length);
        let count = progress.counter();
        let mut pieces = download.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece =
                piece.with_context(|| format!("cannot copy {} from the bunker", shown(from)))?;
            if let Err(error) = to.write_all(&piece).await {
                return Ok(Err(error));
            }
            count(piece.len() as u64);
        }
        Ok(to.flush().await)
    }

    async fn save_directory(
        &self,
        download: Download,
        from: &[u8],
        to: &Path,
    ) -> Result<(), Failure> {
        let to = match name_of(from) {
            Some(name) if to.is_dir() => place::local(join(to.as_os_str().as_bytes(), name)),
            _ => to.to_owned(),
        };
        if !to.is_dir() {
            here(|| format!("cannot make the directory {}", to.display()), fs::create_dir(&to))?;
        }
        let progress = self.output.byte_progress(&shown(from), None);
        let count = progress.counter();
        let pieces = download.into_stream().inspect_ok(move |piece| count(piece.len() as u64));
        let tar = SyncIoBridge::new(StreamReader::new(pieces));
        let directory = to.clone();
        let unpacked = tokio::task::spawn_blocking(move || unpack::unpack(tar, &directory)).await;
        drop(progress);
        let unpacked = unpacked.context("the directory's writer crashed")?;
        let what = || format!("cannot copy {} to {}", shown(from), to.display());
        self.tell_left_out(here(what, unpacked)?.left_out);
        Ok(())
    }
}

/// Where a copy of the file `from` goes. A link is followed: what it leads to is replaced.
fn place_for(from: &[u8], to: &Path) -> Result<PathBuf, Failure> {
    let is_directory = to.is_dir();
    if !is_directory && to.as_os_str().as_bytes().ends_with(b"/") {
        let to = to.display();
        return Err(anyhow!("{to} is not a directory; make it with `mkdir -p {to}`").into());
    }
    let place = match name_of(from) {
        Some(name) if is_directory => place::local(join(to.as_os_str().as_bytes(), name)),
        _ => to.to_owned(),
    };
    if place.is_dir() {
        let place = place.display();
        return Err(
            anyhow!("{place} is a directory, which a file cannot be put in place of").into()
        );
    }
    Ok(fs::canonicalize(&place).unwrap_or(place))
}

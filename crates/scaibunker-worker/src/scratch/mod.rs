//! Scratch disks: the writable file of one microVM.
//!
//! `mkfs.ext4` runs once for each size; a new disk is a copy of that prototype's few written
//! extents, a millisecond's work. The file is sparse and longer than its file system: every disk
//! has the size the template's driver saw ([`DEVICE_BYTES`]), and what holds a bunker to its
//! `disk_mb` on the host is the VMM's file size limit (`jail`), which a hostile guest kernel
//! cannot move.

mod qcow2;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{SeekFrom, copy_file_range, seek};
use tokio::process::Command;

/// Size of the block device every guest sees; the largest `disk_mb` the API takes.
pub const DEVICE_BYTES: u64 = 1 << 40;

/// A scratch disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("mkfs.ext4 failed: {0}")]
    Mkfs(String),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ScratchError {
    let path = path.to_path_buf();
    move |source| ScratchError::Io { what, path, source }
}

/// A writable disk of one VM.
#[derive(Debug)]
pub struct ScratchDisk {
    pub file: File,
    /// What is read where nothing is written yet; others may read it too.
    pub below: Option<File>,
    /// The most it may hold on the host, in bytes.
    pub max_bytes: u64,
}

/// The formatted prototypes of this server.
#[derive(Debug)]
pub struct ScratchDisks {
    dir: PathBuf,
    attempts: AtomicU64,
}

impl ScratchDisks {
    /// Keeps prototypes in `dir`, which it makes.
    pub fn new(dir: PathBuf) -> Result<Self, ScratchError> {
        fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        Ok(Self { dir, attempts: AtomicU64::new(0) })
    }

    /// Makes a fresh disk at `path` whose file system has `disk_mb` MiB.
    pub async fn create(&self, path: &Path, disk_mb: u32) -> Result<ScratchDisk, ScratchError> {
        let prototype = self.dir.join(format!("{disk_mb}.ext4"));
        if !prototype.exists() {
            self.format(&prototype, disk_mb).await?;
        }
        let prototype = File::open(&prototype).map_err(failed("open", &prototype))?;
        self.copy(&prototype, path, disk_mb).await
    }

    /// Makes a disk at `path` that starts as a copy of another one of the same size.
    pub async fn copy(
        &self,
        of: &File,
        path: &Path,
        disk_mb: u32,
    ) -> Result<ScratchDisk, ScratchError> {
        let path = path.to_path_buf();
        let source = of.try_clone().map_err(failed("copy to", &path))?;
        let copy = move || copy_sparse(&source, &path).map_err(failed("make", &path));
        let file = tokio::task::spawn_blocking(copy)
            .await
            .map_err(|e| ScratchError::Mkfs(format!("the copy was interrupted: {e}")))??;
        Ok(ScratchDisk { file, below: None, max_bytes: u64::from(disk_mb) << 20 })
    }

    /// Makes a disk at `path` on which everything is that is on another one of the same size, without
    /// copying it.
    pub fn above(
        &self,
        below: &File,
        path: &Path,
        disk_mb: u32,
    ) -> Result<ScratchDisk, ScratchError> {
        let disk_bytes = u64::from(disk_mb) << 20;
        let mut options = OpenOptions::new();
        let made = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(failed("make", path))?;
        qcow2::format(&file, disk_bytes).map_err(failed("format", path))?;
        // Whoever has the upper disk can write to no other's.
        let read_only = File::open(format!("/proc/self/fd/{}", below.as_raw_fd()));
        let below = read_only.map_err(failed("read below", path))?;
        let max_bytes = disk_bytes + qcow2::overhead(disk_bytes);
        Ok(ScratchDisk { file, below: Some(below), max_bytes })
    }

    /// Two callers may format the same size at once; the second rename replaces an equal file.
    async fn format(&self, prototype: &Path, disk_mb: u32) -> Result<(), ScratchError> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let part = self.dir.join(format!("{disk_mb}.{attempt}.part"));
        let file = File::create(&part).map_err(failed("make", &part))?;
        file.set_len(u64::from(disk_mb) << 20).map_err(failed("size", &part))?;
        let output = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-b", "4096", "-E", "root_owner=0:0"])
            .args(["-J", if disk_mb < 512 { "size=4" } else { "size=16" }])
            .arg(&part)
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .map_err(failed("run mkfs.ext4 on", &part))?;
        if !output.status.success() {
            let _ = fs::remove_file(&part);
            return Err(ScratchError::Mkfs(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        fs::rename(&part, prototype).map_err(failed("rename", &part))
    }
}

/// Copies the written extents of `from`, and makes the result [`DEVICE_BYTES`] long.
///
/// The source's own position is not used: descriptors of the same file may share it.
fn copy_sparse(source: &File, to: &Path) -> io::Result<File> {
    let target = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(to)?;
    target.set_len(DEVICE_BYTES)?;
    let end = source.metadata()?.len();
    let mut offset = 0;
    while offset < end {
        let start = match seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let stop = seek(source, SeekFrom::Hole(start))?;
        let (mut read, mut written) = (start, start);
        while read < stop {
            let length = usize::try_from(stop - read).unwrap_or(usize::MAX);
            let count =
                copy_file_range(source, Some(&mut read), &target, Some(&mut written), length)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        offset = stop;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn a_disk_is_a_sparse_copy_that_passes_fsck() {
        let dir = tempfile::tempdir().unwrap();
        let disks = ScratchDisks::new(dir.path().join("prototypes")).unwrap();
        let path = dir.path().join("scratch.ext4");
        let disk = disks.create(&path, 256).await.unwrap();
        let metadata = disk.file.metadata().unwrap();
        assert_eq!(metadata.len(), DEVICE_BYTES);
        assert!(metadata.blocks() * 512 < 16 << 20);
        let check = Command::new("e2fsck").args(["-fn"]).arg(&path).output().await.unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
}

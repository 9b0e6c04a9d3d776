//! The result, which the helper made and is not trusted with naming.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, fchown},
    },
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags, SeekFrom, fallocate, open, seek},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{Baked, unpack::is_zero};

const CHUNK_BYTES: usize = 256 << 10;

/// Takes the file out of the work directory, once nothing of the helper runs any more: makes it
/// the server's own, turns what is zero into holes, and hashes it.
pub fn take(from: &Path, to: &Path, max_bytes: u64) -> io::Result<Baked> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(from, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 || found.len() > max_bytes {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not the file that was asked for",
        ));
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    fchown(&file, Some(uid), Some(gid))?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let digest = hash(&file, found.len())?;
    fs::rename(from, to)?;
    Ok(Baked { digest, size_bytes: found.len() })
}

fn hash(file: &File, size: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let zeros = vec![0; CHUNK_BYTES];
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        while at < data {
            let count = zeros.len().min(usize::try_from(data - at).unwrap_or(usize::MAX));
            hash.update(&zeros[..count]);
            at += count as u64;
        }
        let hole = if at < size { seek(file, SeekFrom::Hole(at))?.min(size) } else { size };
        while at < hole {
            let count = buffer.len().min(usize::try_from(hole - at).unwrap_or(usize::MAX));
            let chunk = &mut buffer[..count];
            file.read_exact_at(chunk, at)?;
            hash.update(&chunk);
            if is_zero(chunk) {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // Only saves room, and not every file system can.
                let _ = fallocate(file.as_fd(), punch, at, count as u64);
            }
            at += count as u64;
        }
    }
    Ok(format!("sha256:{}", crate::assets::hexadecimal(&hash.finalize())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn holes_count_as_zeros_and_zeros_become_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut content = vec![0; 3 << 20];
        content[2 << 20] = 1;
        fs::write(&from, &content).unwrap();
        let baked = take(&from, &to, 4 << 20).unwrap();
        let right = crate::assets::hexadecimal(&Sha256::digest(&content));
        assert_eq!(baked, Baked { digest: format!("sha256:{right}"), size_bytes: 3 << 20 });
        assert_eq!(fs::read(&to).unwrap(), content);
        assert!(to.metadata().unwrap().blocks() * 512 < 2 << 20);
        assert!(!from.exists());
    }

    #[test]
    fn only_a_file_of_its_own_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        symlink("/etc/passwd", &from).unwrap();
        take(&from, &to, 1 << 20).unwrap_err();
        fs::remove_file(&from).unwrap();
        fs::write(&from, "too large").unwrap();
        take(&from, &to, 3).unwrap_err();
        fs::hard_link(&from, dir.path().join("other")).unwrap();
        take(&from, &to, 1 << 20).unwrap_err();
    }
}

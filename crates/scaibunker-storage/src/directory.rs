//! Objects in a directory of this machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use object_store::local::LocalFileSystem;

use crate::OpenError;

/// Opens an object store in `path`, which is made if it is missing. What it has accepted is on the
/// disk, and stays there when the power fails.
pub(crate) fn open(path: &Path) -> Result<LocalFileSystem, OpenError> {
    fs::create_dir_all(path)
        .map_err(|source| OpenError::Create { path: path.to_owned(), source })?;
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|source| OpenError::Open { path: path.to_owned(), source })?;
    Ok(store.with_automatic_cleanup(true).with_fsync(true))
}

/// Removes what uploads that a crash cut off have left below `dir`: files named `{object}#{number}`
/// that nobody has written to since `before`. Returns how many.
pub(crate) fn remove_cut_off_uploads(dir: &Path, before: SystemTime) -> io::Result<u64> {
    let mut removed = 0;
    let mut dirs: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else if is_under_way(&entry.file_name().to_string_lossy()) {
                removed += u64::from(remove_if_older(&entry.path(), before)?);
            }
        }
    }
    Ok(removed)
}

fn is_under_way(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A file that is gone by now was another's to remove.
fn remove_if_older(path: &Path, before: SystemTime) -> io::Result<bool> {
    let removed = fs::symlink_metadata(path).and_then(|meta| {
        let is_old = meta.modified()? < before;
        if is_old {
            fs::remove_file(path)?;
        }
        Ok(is_old)
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_was_cut_off_long_ago_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("files/bnk_1");
        fs::create_dir_all(&below).unwrap();
        for name in ["whole", "cut#1", "cut#12", "odd#", "odd#1x"] {
            fs::write(below.join(name), "x").unwrap();
        }
        let hour = Duration::from_secs(3600);
        let removed = |before| remove_cut_off_uploads(&dir.path().join("files"), before).unwrap();
        assert_eq!(removed(SystemTime::now() - hour), 0, "they may be under way");
        assert_eq!(removed(SystemTime::now() + hour), 2);
        assert_eq!(fs::read_dir(&below).unwrap().count(), 3);
        assert_eq!(remove_cut_off_uploads(&dir.path().join("none"), SystemTime::now()).unwrap(), 0);
    }
}

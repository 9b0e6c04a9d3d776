//! A tar that a bunker sent, into a local directory. Nothing in it is trusted: whatever it says,
//! nothing outside the directory is made or changed.

use std::{
    io::{self, Read},
    path::Path,
};

use tar::{Archive, Entry, EntryType};

use crate::bench::field;

/// Directories that may not be written to by their owner, at most; they are made last of all.
const MAX_READ_ONLY: usize = 10_000;

/// What became of a tar.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Pipes and devices, which are left out.
    pub left_out: u64,
}

/// Unpacks below `directory`, which exists. Owners and set-id bits are not taken over, and modes
/// only as far as this user's umask goes.
pub fn unpack(tar: impl Read, directory: &Path) -> io::Result<Unpacked> {
    let mut archive = Archive::new(tar);
    archive.set_mask(umask());
    let (mut unpacked, mut read_only) = (Unpacked::default(), Vec::new());
    for entry in archive.entries()? {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::Directory if entry.header().mode()? & 0o300 != 0o300 => {
                if read_only.len() == MAX_READ_ONLY {
                    return Err(io::Error::other("it has too many read-only directories"));
                }
                read_only.push(entry);
            }
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link => unpack_one(&mut entry, directory)?,
            _ => unpacked.left_out += 1,
        }
    }
    // The innermost first: nothing can be changed below one that is done.
    for mut entry in read_only.into_iter().rev() {
        unpack_one(&mut entry, directory)?;
    }
    Ok(unpacked)
}

fn unpack_one(entry: &mut Entry<'_, impl Read>, directory: &Path) -> io::Result<()> {
    if entry.unpack_in(directory)? {
        return Ok(());
    }
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    Err(io::Error::other(format!("`{path}` leads out of the directory")))
}

/// The bits that new files of this process do not get.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&status, "Umask").and_then(|umask| u32::from_str_radix(&umask, 8).ok()).unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header
    }

    /// Writes a name as it is; the library would refuse to.
    fn named(mut header: Header, name: &[u8]) -> Header {
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        header
    }

    fn file(name: &[u8], mode: u32) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        tar.append(&named(header(EntryType::Regular, mode, 3), name), &b"new"[..]).unwrap();
        tar.into_inner().unwrap()
    }

    fn link(kind: EntryType, name: &str, target: &Path) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        tar.append_link(&mut header(kind, 0o777, 0), name, target).unwrap();
        tar.into_inner().unwrap()
    }

    /// One tar of several: each ends with two empty blocks.
    fn joined(tars: &[Vec<u8>]) -> Vec<u8> {
        tars.iter().flat_map(|tar| tar[..tar.len() - 1024].to_vec()).chain([0; 1024]).collect()
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "old").unwrap();
        let tars = [
            file(b"../outside/file", 0o644),
            joined(&[link(EntryType::Symlink, "way", &outside), file(b"way/file", 0o644)]),
            joined(&[link(EntryType::Link, "twin", &outside.join("file")), file(b"twin", 0o644)]),
        ];
        for tar in &tars {
            assert!(unpack(tar.as_slice(), &inside).is_err());
        }
        unpack(file(outside.join("file").to_str().unwrap().as_bytes(), 0o644).as_slice(), &inside)
            .unwrap();
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"old");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn modes_are_kept_as_far_as_they_are_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        let mut closed = header(EntryType::Directory, 0o555, 0);
        tar.append_data(&mut closed, "closed", io::empty()).unwrap();
        let mut wide = header(EntryType::Regular, 0o6777, 3);
        tar.append_data(&mut wide, "closed/file", &b"new"[..]).unwrap();
        let mut fifo = header(EntryType::Fifo, 0o644, 0);
        tar.append_data(&mut fifo, "fifo", io::empty()).unwrap();
        let tar = tar.into_inner().unwrap();
        assert_eq!(unpack(tar.as_slice(), dir.path()).unwrap().left_out, 1);
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("closed") & 0o7777, 0o555);
        assert_eq!(mode("closed/file") & 0o7777, 0o777 & !umask());
        assert!(!dir.path().join("fifo").exists());
        fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_tar_that_breaks_off_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let tar = file(b"file", 0o644);
        assert!(unpack(&tar[..513], dir.path()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let dir = tempfile::tempdir().unwrap();
            let _ = unpack(bytes.as_slice(), dir.path());
        }

        #[test]
        fn no_name_leads_out(name in prop::collection::vec(1u8.., 1..99)) {
            let root = tempfile::tempdir().unwrap();
            let inside = root.path().join("inside");
            fs::create_dir(&inside).unwrap();
            let _ = unpack(file(&name, 0o644).as_slice(), &inside);
            prop_assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }
}

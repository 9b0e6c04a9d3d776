//! The unpacker on archives of friends and strangers.

mod hostile;
mod layers;
mod umoci;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use scaibunker_api::worker::ImageFaultCause;
use tar::{Builder, EntryType, Header};

use super::{job::Fault, limits::Limits, tree::Tree, unpack::unpack};

/// An archive in the making; every name goes in as it is.
struct Layer(Builder<Vec<u8>>);

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    header.set_mtime(1_000_000_000);
    header
}

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn raw(mut self, mut header: Header, name: &str, data: &[u8]) -> Self {
        let field = &mut header.as_old_mut().name;
        if name.len() > field.len() {
            let mut long = self::header(EntryType::GNULongName, name.len() as u64 + 1, 0o644);
            long.set_cksum();
            self.0.append(&long, [name.as_bytes(), b"\0"].concat().as_slice()).unwrap();
        }
        let count = name.len().min(field.len());
        field[..count].copy_from_slice(&name.as_bytes()[..count]);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        let head = header(EntryType::Regular, content.len() as u64, 0o640);
        self.raw(head, name, content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.raw(header(EntryType::Directory, 0, 0o755), name, b"")
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut head = header(kind, 0, 0o777);
        head.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(head, name, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target)
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A tree beside a file that no archive may touch.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("outside"), "untouched").unwrap();
        Self { dir }
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.tree().join(path)
    }

    fn apply(&self, tree: &mut Tree, layer: &[u8], limits: &mut Limits) -> Result<(), Fault> {
        let result = unpack(layer, tree, limits, &mut || {});
        assert_eq!(fs::read_to_string(self.dir.path().join("outside")).unwrap(), "untouched");
        let metadata = self.dir.path().join("outside").metadata().unwrap();
        assert_eq!(metadata.nlink(), 1);
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "tree"]);
        result
    }

    fn unpack(&self, layers: impl IntoIterator<Item = Layer>) -> Result<(), Fault> {
        let mut tree = Tree::open(&self.tree()).unwrap();
        let mut limits = Limits::new(64);
        layers.into_iter().try_for_each(|layer| self.apply(&mut tree, &layer.bytes(), &mut limits))
    }

    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.path(path))
    }

    fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
}

fn cause(result: Result<(), Fault>) -> ImageFaultCause {
    result.unwrap_err().cause
}

/// Every path below the directory.
fn paths(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                open.push(path.clone());
            }
            all.push(path.strip_prefix(dir).unwrap().to_owned());
        }
    }
    all.sort();
    all
}

//! Whiteouts: how a layer says that something of the layers below is gone.
//!
//! They never take away what their own layer has brought, in whatever order it stands in it.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::fs::FileType;

use super::{
    job::Fault,
    tree::{Tree, kind_of, names, open_inner},
};

const PREFIX: &[u8] = b".wh.";

/// What a layer's file name says.
#[derive(Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// This name is gone.
    Of(&'a [u8]),
    /// All that the directory held is gone.
    Opaque,
    /// A note of aufs for itself.
    Nothing,
}

impl<'a> Whiteout<'a> {
    /// `None` for a name of an ordinary entry.
    pub fn parse(name: &'a [u8]) -> Result<Option<Self>, Fault> {
        let Some(gone) = name.strip_prefix(PREFIX) else { return Ok(None) };
        match gone {
            b".wh..opq" => Ok(Some(Self::Opaque)),
            b"" | b"." | b".." => Err(Fault::corrupt("a whiteout of nothing")),
            note if note.starts_with(PREFIX) => Ok(Some(Self::Nothing)),
            name => Ok(Some(Self::Of(name))),
        }
    }
}

/// The paths that a layer has brought, with the directories above them; 8 bytes each, under a
/// key of this process so that no archive can be made to collide.
#[derive(Debug, Default)]
pub struct Brought {
    hashes: HashSet<u64>,
    key: RandomState,
}

impl Brought {
    pub fn add(&mut self, path: &[u8]) {
        let mut path = path;
        // Once one is known, so are those above it.
        while self.hashes.insert(self.key.hash_one(path)) {
            match path.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => path = &path[..slash],
                None => return,
            }
        }
    }

    fn has(&self, path: &[u8]) -> bool {
        self.hashes.contains(&self.key.hash_one(path))
    }
}

/// `dir/name`, or only `name` in the root.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        b"" => name.to_vec(),
        dir => [dir, b"/", name].concat(),
    }
}

/// Removes what has this name, except what the layer has brought.
pub fn remove(
    tree: &mut Tree,
    brought: &Brought,
    dir: BorrowedFd<'_>,
    dir_path: &[u8],
    name: &[u8],
) -> Result<(), Fault> {
    let path = join(dir_path, name);
    if !brought.has(&path) {
        return tree.remove(dir, name);
    }
    match kind_of(dir, name)? {
        Some(FileType::Directory) => {
            remove_contents(tree, brought, open_inner(dir, name)?.as_fd(), &path)
        }
        _ => Ok(()),
    }
}

/// Empties a directory, except of what the layer has brought.
pub fn remove_contents(
    tree: &mut Tree,
    brought: &Brought,
    dir: BorrowedFd<'_>,
    path: &[u8],
) -> Result<(), Fault> {
    let listed =
        dir.try_clone_to_owned().map_err(|error| Fault::io("copy a descriptor", &error))?;
    for name in names(&listed)? {
        remove(tree, brought, dir, path, &name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(Whiteout::parse(b"a.wh.").unwrap(), None);
        assert_eq!(Whiteout::parse(b".wh.a").unwrap(), Some(Whiteout::Of(b"a")));
        assert_eq!(Whiteout::parse(b".wh..wh..opq").unwrap(), Some(Whiteout::Opaque));
        assert_eq!(Whiteout::parse(b".wh..wh.plnk").unwrap(), Some(Whiteout::Nothing));
        for name in [&b".wh."[..], b".wh..", b".wh..."] {
            Whiteout::parse(name).unwrap_err();
        }
    }

    #[test]
    fn what_is_brought_brings_its_directories() {
        let mut brought = Brought::default();
        brought.add(b"a/b/c");
        assert!(brought.has(b"a/b") && brought.has(b"a") && !brought.has(b"a/b/d"));
    }
}

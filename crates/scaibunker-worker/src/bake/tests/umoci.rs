//! Layers with everything in them, beside what `umoci unpack` makes of them.

use std::{
    collections::BTreeMap,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    process::Command,
};

use sha2::{Digest as _, Sha256};

use super::*;
use crate::bake::{ext4::Workshop, job::ROOTFS, survey::Survey};

/// A mounted file system; dropped, it is not.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None` where the machine has no loop devices for us.
    fn new(image: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-o", "ro,loop,noload"]).arg(image).arg(dir.path());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect();
    all.sort();
    all
}

/// All that is to be the same, as text for each path.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut inodes = BTreeMap::new();
    let mut all = paths(root);
    all.insert(0, PathBuf::new());
    all.retain(|path| !path.starts_with("lost+found"));
    let describe = |path: PathBuf| {
        let full = root.join(&path);
        let found = full.symlink_metadata().unwrap();
        let content = if found.is_file() {
            crate::assets::hexadecimal(&Sha256::digest(fs::read(&full).unwrap()))
        } else if found.is_symlink() {
            fs::read_link(&full).unwrap().display().to_string()
        } else {
            String::new()
        };
        let links = if found.is_dir() { 0 } else { found.nlink() };
        let first = inodes.entry(found.ino()).or_insert_with(|| path.clone()).clone();
        let kind = found.file_type();
        let device = kind.is_char_device() || kind.is_block_device();
        let text = format!(
            "{:o} {}:{} size {} links {links} of {} device {} mtime {} {:?} {content}",
            found.mode(),
            found.uid(),
            found.gid(),
            if found.is_dir() { 0 } else { found.len() },
            first.display(),
            if device { found.rdev() } else { 0 },
            // umoci lets the time of unpacking stand where the layers say nothing.
            if path.as_os_str().as_bytes().is_empty() { 0 } else { found.mtime() },
            xattrs(&full),
        );
        (path, text)
    };
    all.into_iter().map(describe).collect()
}

fn owned(kind: EntryType, mode: u32, uid: u64, gid: u64) -> Header {
    let mut head = header(kind, 0, mode);
    head.set_uid(uid);
    head.set_gid(gid);
    head
}

fn device(kind: EntryType, major: u32, minor: u32) -> Header {
    let mut head = owned(kind, 0o660, 0, 6);
    head.set_device_major(major).unwrap();
    head.set_device_minor(minor).unwrap();
    head
}

fn layers() -> Vec<Layer> {
    // A capability set of version 2: cap_net_raw, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "long".repeat(30), "name".repeat(40));
    let below = Layer::new()
        .dir("./")
        .dir("bin")
        .raw(owned(EntryType::Regular, 0o4755, 0, 0), "bin/su", b"")
        .pax(&[("SCHILY.xattr.security.capability", &capability)])
        .raw(owned(EntryType::Regular, 0o755, 0, 0), "bin/ping", b"")
        .hard_link("bin/ping6", "bin/ping")
        .dir("home")
        .raw(owned(EntryType::Directory, 0o700, 1000, 1001), "home/user", b"")
        .pax(&[("SCHILY.xattr.user.note", b"x=y\nz"), ("mtime", b"1234567890.75")])
        .raw(owned(EntryType::Regular, 0o600, 1000, 1001), "home/user/file", b"")
        .raw(owned(EntryType::Directory, 0o1777, 0, 0), "tmp", b"")
        .raw(owned(EntryType::Directory, 0o2775, 0, 50), "srv", b"")
        .dir("dev")
        .raw(device(EntryType::Char, 1, 3), "dev/null", b"")
        .raw(device(EntryType::Block, 259, 300), "dev/disk name", b"")
        .hard_link("dev/zero", "dev/null")
        .raw(owned(EntryType::Fifo, 0o622, 3, 4), "dev/fifo", b"")
        .symlink("passwd", "/etc/passwd")
        .symlink("up", "../../../..")
        .dir("etc")
        .file("etc/passwd", "root")
        .symlink("linked", "etc")
        .file("linked/through", "a link")
        .file("../../etc/shadow", "secret")
        .file("/etc/absolute", "path")
        .dir("long".repeat(30).as_str())
        .file(&long, "names")
        .dir("gone")
        .file("gone/a", "1")
        .dir("gone/b")
        .file("gone/b/c", "2")
        .dir("opaque")
        .file("opaque/old", "3")
        .file("becomes-dir", "4")
        .dir("becomes-file")
        .file("becomes-file/x", "5")
        .file("odd\nname\t\"quoted\"", "6")
        .raw(owned(EntryType::Regular, 0o644, 200_000, 300_000), "large-ids", b"")
        .file("empty", "");
    let above = Layer::new()
        .file(".wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "7")
        .dir("becomes-dir")
        .file("becomes-dir/x", "8")
        .file("becomes-file", "9")
        .hard_link("etc/linked-below", "bin/su")
        .raw(owned(EntryType::Directory, 0o750, 1, 2), "srv", b"")
        .file("etc/passwd", "replaced")
        .file("up/from-link", "10");
    vec![below, above]
}

#[test]
fn the_image_is_what_umoci_unpacks() {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || Command::new("umoci").arg("--version").output().is_err() {
        eprintln!("needs root and umoci");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let dir = work.path();
    run("umoci", &["init", "--layout", "layout"], dir);
    run("umoci", &["new", "--image", "layout:test"], dir);
    fs::create_dir(dir.join("tree")).unwrap();
    rustix::fs::chmod(dir.join("tree"), 0o755.into()).unwrap();
    let mut tree = Tree::open(&dir.join("tree")).unwrap();
    for layer in layers() {
        let bytes = layer.bytes();
        fs::write(dir.join("layer.tar"), &bytes).unwrap();
        run("umoci", &["raw", "add-layer", "--image", "layout:test", "layer.tar"], dir);
        unpack(bytes.as_slice(), &mut tree, &mut Limits::new(64), &mut || {}).unwrap();
    }
    run("umoci", &["unpack", "--image", "layout:test", "bundle"], dir);
    let survey = Survey::of(&tree).unwrap();
    Workshop { dir, size_mib: 64 }.pack(&survey).unwrap();
    let Some(mounted) = Mounted::new(&dir.join(ROOTFS)) else {
        eprintln!("needs a loop device");
        return;
    };
    let (right, found) = (describe(&dir.join("bundle/rootfs")), describe(mounted.0.path()));
    for (path, text) in &right {
        assert_eq!(found.get(path), Some(text), "{}", path.display());
    }
    assert_eq!(found.len(), right.len());
}

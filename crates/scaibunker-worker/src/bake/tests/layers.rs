//! What ordinary layers mean.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use super::*;
use crate::bake::survey::Survey;

#[test]
fn whiteouts_take_away_what_is_below_only() {
    let place = Place::new();
    let below =
        Layer::new().file("d/old", "1").file("d/sub/old", "2").file("gone/x", "3").file("f", "4");
    let above = Layer::new()
        .file("d/sub/new", "5")
        .file("d/.wh..wh..opq", "")
        .file("d/late", "6")
        .file(".wh.gone", "")
        .file("f", "7")
        .file(".wh.f", "")
        .file("not/there/.wh.x", "");
    place.unpack([below, above]).unwrap();
    let all: Vec<_> = paths(&place.tree()).iter().map(|path| path.display().to_string()).collect();
    assert_eq!(all, ["d", "d/late", "d/sub", "d/sub/new", "f"]);
    assert_eq!(place.read("f").unwrap(), "7");
}

#[test]
fn later_entries_replace_earlier_ones_of_any_type() {
    let place = Place::new();
    let below = Layer::new().dir("a").file("a/x", "1").file("b", "2").symlink("c", "a").dir("d");
    let above = Layer::new().file("a", "3").dir("b").file("b/y", "4").file("c", "5").file("c", "6");
    place.unpack([below.file("d/keep", "7"), above.dir("d")]).unwrap();
    assert_eq!(place.read("a").unwrap(), "3");
    assert_eq!(place.read("b/y").unwrap(), "4");
    assert_eq!(place.read("c").unwrap(), "6");
    assert_eq!(place.read("d/keep").unwrap(), "7");
}

#[test]
fn hard_links_reach_into_lower_layers() {
    let place = Place::new();
    let below = Layer::new().file("a", "1").symlink("dir", "real").file("real/b", "2");
    let above = Layer::new().hard_link("a2", "a").hard_link("x/b2", "dir/b").hard_link("l", "dir");
    place.unpack([below, above]).unwrap();
    assert_eq!(place.path("a").metadata().unwrap().nlink(), 2);
    assert_eq!(place.read("x/b2").unwrap(), "2");
    assert!(place.path("l").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn modes_times_and_attributes_are_kept() {
    let place = Place::new();
    let mut old = header(EntryType::Regular, 0, 0o6755);
    old.set_mtime(0);
    let layer = Layer::new()
        .raw(header(EntryType::Directory, 0, 0o1777), "tmp", b"")
        .raw(old, "tmp/suid", b"")
        .pax(&[("mtime", b"-5.5"), ("SCHILY.xattr.user.note", b"a\nb")])
        .file("tmp/early", "")
        .pax(&[("path", &[b'p'; 200]), ("mtime", b"99999999999999999999")])
        .file("short", "")
        .raw(header(EntryType::Fifo, 0, 0o620), "tmp/fifo", b"");
    // A time beyond what a number can be is malformed.
    assert_eq!(cause(place.unpack([layer])), ImageFaultCause::Corrupt);
    let layer = Layer::new()
        .pax(&[("path", &[b'p'; 200]), ("mtime", b"99999999999")])
        .file("short", "")
        .raw(header(EntryType::Fifo, 0, 0o620), "tmp/fifo", b"");
    let mut tree = Tree::open(&place.tree()).unwrap();
    place.apply(&mut tree, &layer.bytes(), &mut Limits::new(64)).unwrap();
    let found = |path: &str| place.path(path).symlink_metadata().unwrap();
    assert_eq!(found("tmp/suid").permissions().mode() & 0o7777, 0o6755);
    assert_eq!(found("tmp/suid").mtime(), 0);
    assert_eq!(found("tmp/early").mtime(), -6);
    assert_eq!(found(&"p".repeat(200)).mtime(), i64::from(i32::MAX));
    assert!(found("tmp/fifo").file_type().is_fifo());
    assert_eq!(found("tmp/fifo").permissions().mode() & 0o7777, 0o620);
    let mut note = [0; 16];
    let length = rustix::fs::getxattr(place.path("tmp/early"), "user.note", &mut note).unwrap();
    assert_eq!(&note[..length], b"a\nb");
}

#[test]
fn directories_get_their_own_times_at_the_end() {
    let place = Place::new();
    let mut tree = Tree::open(&place.tree()).unwrap();
    let layer = Layer::new().dir("d").file("d/x", "").file("implied/x", "").bytes();
    place.apply(&mut tree, &layer, &mut Limits::new(64)).unwrap();
    place
        .apply(&mut tree, &Layer::new().file("d/.wh.x", "").bytes(), &mut Limits::new(64))
        .unwrap();
    Survey::of(&tree).unwrap();
    assert_eq!(place.path("d").metadata().unwrap().mtime(), 1_000_000_000);
    assert_eq!(place.path("implied").metadata().unwrap().mtime(), 0);
}

#[test]
fn sparse_files_of_every_form_keep_their_holes() {
    let place = Place::new();
    let mut old = header(EntryType::GNUSparse, 3, 0o644);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.sparse[0].offset[..11].copy_from_slice(b"40000000000");
    gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000000003");
    gnu.realsize[..11].copy_from_slice(b"40000000003");
    let mut listed = b"1\n4294967296\n3\n".to_vec();
    listed.resize(512, 0);
    listed.extend_from_slice(b"abc");
    let layer = Layer::new()
        .raw(old, "old", b"abc")
        .pax(&[
            ("GNU.sparse.name", b"p01"),
            ("GNU.sparse.size", b"4294967299"),
            ("GNU.sparse.map", b"4294967296,3"),
        ])
        .file("GNUSparseFile.0/p01", "abc")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"p10"),
            ("GNU.sparse.realsize", b"4294967299"),
        ])
        .raw(header(EntryType::Regular, 515, 0o644), "GNUSparseFile.0/p10", &listed)
        .file("after", "x");
    place.unpack([layer]).unwrap();
    for name in ["old", "p01", "p10"] {
        let found = place.path(name).metadata().unwrap();
        assert_eq!(found.len(), (4 << 30) + 3, "{name}");
        assert!(found.blocks() < 64, "{name}");
        let file = fs::File::open(place.path(name)).unwrap();
        let mut end = [0; 3];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, 4 << 30).unwrap();
        assert_eq!(&end, b"abc");
    }
    assert_eq!(place.read("after").unwrap(), "x");
}

#[test]
fn odd_names_are_names() {
    let place = Place::new();
    place.unpack([Layer::new().file("a\nb\"c\\ \u{1b}", "1").file("-x", "2")]).unwrap();
    assert_eq!(place.read("a\nb\"c\\ \u{1b}").unwrap(), "1");
    assert!(place.has("-x"));
}

#[test]
fn devices_wait_for_the_file_system() {
    let place = Place::new();
    let mut null = header(EntryType::Char, 0, 0o666);
    null.set_device_major(1).unwrap();
    null.set_device_minor(3).unwrap();
    let mut tree = Tree::open(&place.tree()).unwrap();
    let layer = Layer::new()
        .raw(null.clone(), "dev/null", b"")
        .hard_link("dev/also", "dev/null")
        .raw(null, "dev/gone", b"")
        .file("dev/gone", "");
    place.apply(&mut tree, &layer.bytes(), &mut Limits::new(64)).unwrap();
    let survey = Survey::of(&tree).unwrap();
    let [device] = survey.devices()[..] else { panic!("{survey:?}") };
    assert_eq!((device.major, device.minor, device.mode), (1, 3, 0o666));
    assert_eq!((device.path.as_slice(), device.links.len()), (&b"dev/also"[..], 1));
    assert!(!place.has("dev/null") && place.has("dev/gone"));
}

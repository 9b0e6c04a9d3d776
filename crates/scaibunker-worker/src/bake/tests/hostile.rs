//! Archives that were made to do harm.

use std::io::Read as _;

use super::*;
use crate::bake::{
    Compression,
    layer::{BytesRead, LayerStream},
};

#[test]
fn paths_stay_in_the_tree() {
    let place = Place::new();
    let layer = Layer::new()
        .file("../outside", "a")
        .file("/../../outside2", "b")
        .file("a/../../../outside3", "c")
        .file("./x//./y/../z", "d");
    place.unpack([layer]).unwrap();
    assert_eq!(place.read("outside").unwrap(), "a");
    assert_eq!(place.read("outside2").unwrap(), "b");
    assert_eq!(place.read("outside3").unwrap(), "c");
    assert_eq!(place.read("x/z").unwrap(), "d");
}

#[test]
fn links_lead_nowhere_outside() {
    let place = Place::new();
    let root = place.dir.path().to_str().unwrap().to_owned();
    let layer = Layer::new()
        .symlink("up", "../..")
        .file("up/outside", "a")
        .symlink("abs", &root)
        .file("abs/outside", "b")
        .symlink("passwd", "/etc/passwd")
        .symlink("far", "up/up/../abs")
        .file("far/deep/file", "c");
    place.unpack([layer]).unwrap();
    assert_eq!(place.read("outside").unwrap(), "a");
    assert_eq!(place.read(&format!("{}/outside", &root[1..])).unwrap(), "b");
    assert_eq!(place.read(&format!("{}/deep/file", &root[1..])).unwrap(), "c");
    // A file in place of a link does not go through it.
    place.unpack([Layer::new().file("passwd", "mine").file("up", "no link")]).unwrap();
    assert_eq!(place.read("passwd").unwrap(), "mine");
    assert_eq!(place.read("up").unwrap(), "no link");
}

#[test]
fn hard_links_only_name_what_is_inside() {
    let place = Place::new();
    for target in ["../outside", "/etc/passwd", "missing", "..", "dir", "link/outside"] {
        let layer = Layer::new().dir("dir").symlink("link", "../..").hard_link("own", target);
        assert_eq!(cause(place.unpack([layer])), ImageFaultCause::Corrupt, "{target}");
    }
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "../.wh..."] {
        let place = Place::new();
        let layer = Layer::new().dir("a").file(name, "");
        assert_eq!(cause(place.unpack([layer])), ImageFaultCause::Corrupt, "{name}");
    }
    let place = Place::new();
    place.unpack([Layer::new().symlink("a", "../..").file("a/.wh.outside", "")]).unwrap();
}

#[test]
fn the_root_stays_a_directory() {
    for layer in [Layer::new().symlink(".", "/etc"), Layer::new().file("/", "x")] {
        assert_eq!(cause(Place::new().unpack([layer])), ImageFaultCause::Corrupt);
    }
}

#[test]
fn circles_and_depths_are_refused() {
    let circle = Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", "");
    assert_eq!(cause(Place::new().unpack([circle])), ImageFaultCause::Refused);
    let deep = Layer::new().file(&"d/".repeat(300), "").file(&format!("{}f", "d/".repeat(300)), "");
    assert_eq!(cause(Place::new().unpack([deep])), ImageFaultCause::Refused);
    let long = Layer::new().file(&"n".repeat(256), "");
    assert_eq!(cause(Place::new().unpack([long])), ImageFaultCause::Refused);
    let through = Layer::new().file("a", "").file("a/b", "");
    assert_eq!(cause(Place::new().unpack([through])), ImageFaultCause::Corrupt);
}

#[test]
fn ids_and_attributes_are_bounded() {
    let mut head = header(EntryType::Regular, 0, 0o644);
    head.set_uid(1 << 31);
    let layer = Layer::new().raw(head, "a", b"");
    assert_eq!(cause(Place::new().unpack([layer])), ImageFaultCause::Refused);
    let large = vec![b'x'; 10_000];
    let layer = Layer::new().pax(&[("SCHILY.xattr.user.a", &large)]).file("a", "");
    assert_eq!(cause(Place::new().unpack([layer])), ImageFaultCause::Refused);
    let layer = Layer::new().pax(&[("SCHILY.xattr.security.capability", b"junk")]).file("a", "");
    if rustix::process::geteuid().is_root() {
        assert_eq!(cause(Place::new().unpack([layer])), ImageFaultCause::Corrupt);
    }
}

#[test]
fn what_is_cut_off_or_of_no_kind_is_corrupt() {
    let whole = Layer::new().file("a", &"x".repeat(5000)).bytes();
    for cut in [100, 512, 600, 5000] {
        let place = Place::new();
        let mut tree = Tree::open(&place.tree()).unwrap();
        let result = place.apply(&mut tree, &whole[..cut], &mut Limits::new(64));
        assert_eq!(cause(result), ImageFaultCause::Corrupt, "{cut}");
    }
    let layer = Layer::new().raw(header(EntryType::new(b'9'), 0, 0), "a", b"");
    assert_eq!(cause(Place::new().unpack([layer])), ImageFaultCause::Corrupt);
}

#[test]
fn data_beyond_the_cap_ends_the_bake() {
    let place = Place::new();
    let mut tree = Tree::open(&place.tree()).unwrap();
    let data = vec![1; 1 << 20];
    let mut layer = Layer::new();
    for index in 0..3 {
        let head = header(EntryType::Regular, data.len() as u64, 0o644);
        layer = layer.raw(head, &format!("f{index}"), &data);
    }
    let fault = place.apply(&mut tree, &layer.bytes(), &mut Limits::new(2)).unwrap_err();
    assert_eq!(fault.cause, ImageFaultCause::SizeCap);
    assert!(fault.message.starts_with("size cap too small: mkfs.ext4 "), "{fault}");
}

#[test]
fn zeros_take_no_room_and_still_have_an_end() {
    let place = Place::new();
    let mut head = header(EntryType::Regular, 0, 0o644);
    head.set_size(1 << 30);
    head.as_old_mut().name[0] = b'z';
    head.set_cksum();
    let zeros = std::io::repeat(0).take(1 << 30);
    let stream = std::io::Read::chain(head.as_bytes().as_slice(), zeros);
    let mut tree = Tree::open(&place.tree()).unwrap();
    unpack(stream, &mut tree, &mut Limits::new(1), &mut || {}).unwrap();
    let found = place.path("z").metadata().unwrap();
    assert_eq!((found.len(), found.blocks()), (1 << 30, 0));

    let path = place.dir.path().join("blob");
    fs::write(&path, vec![0; 100_000]).unwrap();
    let (blob, mut left) = (fs::File::open(&path).unwrap(), 50_000);
    let mut stream =
        LayerStream::open(blob, Compression::None, BytesRead::default(), &mut left).unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn a_million_pieces_or_a_huge_name_do_not_take_the_memory() {
    let mut head = header(EntryType::XHeader, 1 << 40, 0);
    head.set_cksum();
    let stream = std::io::Read::chain(head.as_bytes().as_slice(), std::io::repeat(b'x'));
    let place = Place::new();
    let mut tree = Tree::open(&place.tree()).unwrap();
    let result = unpack(stream, &mut tree, &mut Limits::new(1), &mut || {});
    assert_eq!(cause(result), ImageFaultCause::Corrupt);
}

/// A few names that meet each other often, in entries of every kind.
#[test]
fn no_archive_escapes_or_panics() {
    const NAMES: [&str; 16] = [
        "a",
        "b",
        "a/b",
        "a/b/c",
        "../a",
        "/b",
        "a/../..",
        ".",
        "..",
        "b/.wh.c",
        ".wh.a",
        ".wh.b",
        "a/.wh..wh..opq",
        ".wh..wh..opq",
        "a/b/../../../outside",
        "../../outside",
    ];
    bolero::check!()
        .with_test_time(std::time::Duration::from_secs(3))
        .with_type::<Vec<(u8, u8, u8)>>()
        .for_each(|entries| {
            let place = Place::new();
            let mut layer = Layer::new();
            for (kind, name, target) in entries {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                let target = NAMES[usize::from(*target) % NAMES.len()];
                layer = match kind % 6 {
                    0 => layer.file(name, target),
                    1 => layer.dir(name),
                    2 => layer.symlink(name, target),
                    3 => layer.hard_link(name, target),
                    4 => layer.raw(header(EntryType::Fifo, 0, 0o600), name, b""),
                    _ => layer.raw(header(EntryType::Char, 0, 0o600), name, b""),
                };
            }
            let _ = place.unpack([layer]);
        });
}

#[test]
fn no_bytes_panic() {
    bolero::check!()
        .with_test_time(std::time::Duration::from_secs(2))
        .with_type::<(Vec<u8>, u16, u8)>()
        .for_each(|(noise, at, byte)| {
            let mut bytes = Layer::new().pax(&[("path", b"x")]).file("a", "b").dir("c").bytes();
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *byte;
            bytes.extend_from_slice(noise);
            let place = Place::new();
            let mut tree = Tree::open(&place.tree()).unwrap();
            let _ = place.apply(&mut tree, &bytes, &mut Limits::new(1));
        });
}

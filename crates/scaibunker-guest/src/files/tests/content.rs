//! Reading and writing.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
};

use rustix::fs::{CWD, Mode, mkfifoat};
use scaibunker_guest_protocol::files::{EntryType, Rights};

use super::*;
use crate::files::{transfer::BodyReader, upload};

async fn write(lab: &Lab, to: &str, content: &'static [u8]) -> Result<(), AgentError> {
    let call = write_call(to);
    lab.as_root(move |tree| {
        upload::write(tree, &call, &mut BodyReader::of(&[content], true)).map(drop)
    })
    .await
}

async fn read(lab: &Lab, from: &str) -> Result<Vec<u8>, AgentError> {
    let from = path(from);
    lab.as_root(move |tree| {
        let mut content = Vec::new();
        tree.open_file(&from)?.read_to_end(&mut content).map_err(AgentError::io("read"))?;
        Ok(content)
    })
    .await
}

/// Names in a directory of the lab.
fn names(lab: &Lab, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(lab.path(dir)).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_written_with_the_directories_above_it() {
    let lab = Lab::new();
    write(&lab, "/a/b c/\n/file", b"hello").await.unwrap();
    assert_eq!(fs::read(lab.path("a/b c/\n/file")).unwrap(), b"hello");
    assert_eq!(read(&lab, "a/../a/b c/./\n//file").await.unwrap(), b"hello");
    assert_eq!(names(&lab, "a/b c/\n"), ["file"]);
    let mode = fs::metadata(lab.path("a/b c/\n/file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
}

#[tokio::test]
async fn links_never_lead_out_of_the_root() {
    let lab = Lab::new();
    symlink("/etc/passwd", lab.path("absolute")).unwrap();
    symlink("../../../../etc/passwd", lab.path("relative")).unwrap();
    symlink("/proc/self/root/etc/passwd", lab.path("magic")).unwrap();
    for link in ["/absolute", "relative", "/../../absolute"] {
        let content = read(&lab, link).await.unwrap();
        assert!(content.ends_with(b"/home/user:/bin/sh\n"), "{link}");
    }
    assert!(read(&lab, "/magic").await.is_err());
    write(&lab, "/relative", b"new").await.unwrap();
    assert_eq!(fs::read(lab.path("etc/passwd")).unwrap(), b"new");
    assert!(fs::symlink_metadata(lab.path("relative")).unwrap().is_symlink());
    symlink("loop", lab.path("loop")).unwrap();
    assert_eq!(kind(read(&lab, "/loop").await), GuestErrorKind::SymlinkLoop);
    assert_eq!(kind(write(&lab, "/loop", b"").await), GuestErrorKind::SymlinkLoop);
    symlink("made/by/link", lab.path("dangling")).unwrap();
    write(&lab, "/dangling", b"x").await.unwrap();
    assert_eq!(fs::read(lab.path("made/by/link")).unwrap(), b"x");
}

#[tokio::test]
async fn the_agents_own_processes_files_are_no_way_out() {
    let lab = Lab::new();
    fs::create_dir(lab.path("proc")).unwrap();
    let host = fs::canonicalize("/proc/self").unwrap();
    symlink(host, lab.path("proc/self")).unwrap();
    // With the host's `/proc` for the root, as the bunker's own is in a microVM.
    let root = Arc::new(BunkerRoot::at(std::path::Path::new("/proc")));
    let open = |from: &'static str| {
        let rights = Rights { as_root: true, user: None };
        let work = move |tree: &Tree| tree.open_file(&path(from)).map(drop);
        lab.threads.run(Arc::clone(&root), rights, work)
    };
    assert!(open("/self/status").await.is_ok());
    for from in ["/self/root/etc/passwd", "/self/cwd/Cargo.toml", "/self/fd/0", "/self/exe"] {
        assert_eq!(kind(open(from).await), GuestErrorKind::SymlinkLoop, "{from}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let lab = Lab::new();
    fs::write(lab.path("file"), "old").unwrap();
    let call = write_call("/file");
    let written = lab
        .as_root(move |tree| upload::write(tree, &call, &mut BodyReader::of(&[b"ne"], false)))
        .await;
    assert!(written.is_err());
    assert_eq!(fs::read(lab.path("file")).unwrap(), b"old");
    assert_eq!(names(&lab, "."), ["etc", "file", "home"]);
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_readers_their_bytes() {
    let lab = Lab::new();
    fs::write(lab.path("file"), "old").unwrap();
    fs::set_permissions(lab.path("file"), fs::Permissions::from_mode(0o640)).unwrap();
    let mut reader = File::open(lab.path("file")).unwrap();
    write(&lab, "/file", b"new").await.unwrap();
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "old");
    let entry = lab.as_root(|tree| tree.stat(&path("/file"))).await.unwrap();
    assert_eq!((entry.mode, entry.size_bytes, entry.kind), (0o640, 3, EntryType::File));
}

#[tokio::test]
async fn what_is_no_file_is_told_apart() {
    let lab = Lab::new();
    mkfifoat(CWD, lab.path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = UnixListener::bind(lab.path("socket")).unwrap();
    symlink("pipe", lab.path("link")).unwrap();
    for (at, expected) in [
        ("/etc", GuestErrorKind::IsADirectory),
        ("/pipe", GuestErrorKind::NotARegularFile),
        ("/link", GuestErrorKind::NotARegularFile),
        ("/socket", GuestErrorKind::NotARegularFile),
        ("/etc/passwd/x", GuestErrorKind::NotADirectory),
    ] {
        assert_eq!(kind(read(&lab, at).await), expected, "read {at}");
        assert_eq!(kind(write(&lab, at, b"x").await), expected, "write {at}");
    }
    assert_eq!(kind(read(&lab, "/missing").await), GuestErrorKind::NotFound);
    assert_eq!(kind(read(&lab, "").await), GuestErrorKind::IsADirectory);
    let long = "n".repeat(256);
    assert_eq!(kind(write(&lab, &long, b"").await), GuestErrorKind::NameTooLong);
    for at in ["/", "", "..", "/etc/..", "."] {
        assert_eq!(kind(write(&lab, at, b"x").await), GuestErrorKind::Invalid, "{at}");
    }
    let mut call = write_call("/file");
    call.mode = Some(0o10000);
    let refused =
        lab.as_root(move |tree| upload::write(tree, &call, &mut BodyReader::of(&[], true))).await;
    assert_eq!(kind(refused), GuestErrorKind::Invalid);
}

#[tokio::test]
async fn a_user_can_do_what_its_processes_could() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    fs::write(lab.path("secret"), "hidden").unwrap();
    fs::set_permissions(lab.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let open = |tree: &Tree| tree.open_file(&path("/secret")).map(drop);
    assert_eq!(kind(lab.as_user(open).await), GuestErrorKind::AccessDenied);
    assert!(lab.as_root(open).await.is_ok());

    let write = |to: &str, uid: Option<u32>| {
        let call = WriteCall { uid, ..write_call(to) };
        lab.as_user(move |tree| upload::write(tree, &call, &mut BodyReader::of(&[b"mine"], true)))
    };
    assert_eq!(kind(write("/etc/new", None).await), GuestErrorKind::AccessDenied);
    assert_eq!(kind(write("/etc/passwd", None).await), GuestErrorKind::AccessDenied);
    assert_eq!(kind(write("/home/user/given", Some(0)).await), GuestErrorKind::AccessDenied);
    let entry = write("/home/user/deep/own", Some(USER)).await.unwrap();
    assert_eq!((entry.uid, entry.gid), (USER, USER));
    assert_eq!(owner(&lab.path("home/user/deep")), (USER, USER));
    assert_eq!(names(&lab, "home/user"), ["deep"]);

    // A file of root's in the user's own directory could only be replaced by one of the user's.
    fs::write(lab.path("home/user/roots"), "old").unwrap();
    fs::set_permissions(lab.path("home/user/roots"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(kind(write("/home/user/roots", None).await), GuestErrorKind::AccessDenied);
    assert_eq!(fs::read(lab.path("home/user/roots")).unwrap(), b"old");
}

#[tokio::test]
async fn root_gives_new_files_to_the_user() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let as_root_for_user = Rights { as_root: true, user: Some("user".to_owned()) };
    let write = |to: &str, gid: Option<u32>| {
        let call = WriteCall { gid, ..write_call(to) };
        let work = move |tree: &Tree| {
            upload::write(tree, &call, &mut BodyReader::of(&[b"x"], true)).map(drop)
        };
        lab.threads.run(Arc::clone(&lab.root), as_root_for_user.clone(), work)
    };
    write("/srv/new/file", None).await.unwrap();
    for made in ["srv", "srv/new", "srv/new/file"] {
        assert_eq!(owner(&lab.path(made)), (USER, USER), "{made}");
    }
    write("/etc/passwd", None).await.unwrap();
    assert_eq!(owner(&lab.path("etc/passwd")), (0, 0));
    fs::write(lab.path("etc/passwd"), "user:x:1000:1000::/:/bin/sh\n").unwrap();
    write("/srv/grouped", Some(7)).await.unwrap();
    assert_eq!(owner(&lab.path("srv/grouped")), (USER, 7));
}

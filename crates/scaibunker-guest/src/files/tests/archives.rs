//! Archives, both ways.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    time::Duration,
};

use scaibunker_guest_protocol::files::{FileCall, Unpacked};
use tar::{Builder, EntryType, Header};

use super::*;
use crate::files::{pack, transfer::BodyReader, unpack};

async fn unpack(lab: &Lab, to: &str, archive: Vec<u8>) -> Result<Unpacked, AgentError> {
    let call = write_call(to);
    lab.as_root(move |tree| unpack::unpack(tree, &call, &mut BodyReader::of(&[&archive], true)))
        .await
}

fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &[u8], link: &str, content: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o751);
    header.set_mtime(1000);
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    header.set_link_name_literal(link).unwrap();
    header.set_cksum();
    builder.append(&header, content.as_bytes()).unwrap();
}

fn archive(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, link, content) in entries {
        entry(&mut builder, *kind, path.as_bytes(), link, content);
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn a_directory_survives_both_ways() {
    let lab = Lab::new();
    let long = format!("t/{}/{}", "d".repeat(150), "f".repeat(150));
    fs::create_dir_all(lab.path(&long).parent().unwrap()).unwrap();
    fs::write(lab.path(&long), vec![7; 300_000]).unwrap();
    fs::create_dir(lab.path("t/closed")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"t/closed/a\n\xff b");
    fs::write(lab.dir.path().join(odd), "odd").unwrap();
    fs::set_permissions(lab.path("t/closed"), fs::Permissions::from_mode(0o555)).unwrap();
    symlink("../some//where/./", lab.path("t/link")).unwrap();
    symlink("x".repeat(300), lab.path("t/long link")).unwrap();
    let _socket = UnixListener::bind(lab.path("t/socket")).unwrap();

    let call = FileCall { path: path("/t"), rights: rights() };
    let bytes = lab
        .as_root(move |tree| {
            let mut builder = Builder::new(Vec::new());
            pack::pack(tree, &call, &mut builder)?;
            builder.into_inner().map_err(AgentError::io("finish"))
        })
        .await
        .unwrap();
    let done = unpack(&lab, "/copy/here", bytes).await.unwrap();
    assert_eq!(done, Unpacked { entries: 6, bytes: 300_003 });
    let copy = lab.path("copy/here");
    assert_eq!(fs::read(copy.join(&long[2..])).unwrap(), vec![7; 300_000]);
    let odd = copy.join(std::ffi::OsStr::from_bytes(b"closed/a\n\xff b"));
    assert_eq!(fs::read(odd).unwrap(), b"odd");
    assert_eq!(fs::read_link(copy.join("link")).unwrap().as_os_str(), "../some//where/./");
    assert_eq!(fs::read_link(copy.join("long link")).unwrap().as_os_str().len(), 300);
    let (old, new) =
        (fs::metadata(lab.path("t/closed")).unwrap(), fs::metadata(copy.join("closed")).unwrap());
    assert_eq!((new.mode(), new.mtime()), (old.mode(), old.mtime()));
}

#[tokio::test]
async fn an_archive_stays_in_its_directory() {
    use EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let lab = Lab::new();
    let bytes = archive(&[
        (Directory, "./", "", ""),
        (Regular, "../outside", "", "x"),
        (Regular, "a/../../outside", "", "x"),
        (Regular, "/rooted", "", "x"),
        (Fifo, "pipe", "", ""),
        (Symlink, "up", "../..", ""),
        (Regular, "plain", "", "1"),
        (Link, "again", "plain", ""),
    ]);
    let done = unpack(&lab, "/in/here", bytes).await.unwrap();
    assert_eq!(done, Unpacked { entries: 4, bytes: 2 });
    assert!(lab.path("in/here/rooted").exists());
    assert!(!lab.path("outside").exists() && !lab.path("in/outside").exists());
    assert_eq!(fs::metadata(lab.path("in/here/again")).unwrap().nlink(), 2);

    for (kind, name, link) in [
        (Regular, "up/etc/evil", ""),
        (Link, "stolen", "up/etc/passwd"),
        (Link, "stolen", "../../etc/passwd"),
        (Directory, "up", ""),
    ] {
        let refused = unpack(&lab, "/in/here", archive(&[(kind, name, link, "")])).await;
        assert_eq!(super::kind(refused), GuestErrorKind::Invalid, "{name}");
    }
    assert!(!lab.path("etc/evil").exists() && !lab.path("in/here/stolen").exists());
    // A link in the place of a file is replaced, not written through.
    symlink("/etc/passwd", lab.path("in/here/through")).unwrap();
    unpack(&lab, "/in/here", archive(&[(Regular, "through", "", "new")])).await.unwrap();
    assert!(lab.path("in/here/through").is_file());
    assert!(fs::read_to_string(lab.path("etc/passwd")).unwrap().contains("user"));
}

#[tokio::test]
async fn a_users_archive_is_the_users() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let bytes = archive(&[(EntryType::Regular, "deep/file", "", "x")]);
    let call = write_call("/home/user/in");
    lab.as_user(move |tree| unpack::unpack(tree, &call, &mut BodyReader::of(&[&bytes], true)))
        .await
        .unwrap();
    assert_eq!(owner(&lab.path("home/user/in/deep/file")), (USER, USER));
    let bytes = archive(&[(EntryType::Regular, "file", "", "x")]);
    let call = write_call("/etc");
    let refused = lab
        .as_user(move |tree| unpack::unpack(tree, &call, &mut BodyReader::of(&[&bytes], true)))
        .await;
    assert_eq!(kind(refused), GuestErrorKind::AccessDenied);
}

#[test]
fn archives_of_hostile_bytes_are_survived() {
    let lab = Lab::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bolero::check!()
        .with_type::<Vec<(u8, Vec<u8>, Vec<u8>)>>()
        .with_test_time(Duration::from_secs(2))
        .for_each(|entries| {
            let mut builder = Builder::new(Vec::new());
            for (kind, path, content) in entries.iter().take(8) {
                let mut header = Header::new_gnu();
                let (path, link) =
                    (&path[..path.len().min(100)], &content[..content.len().min(90)]);
                header.as_mut_bytes()[..path.len()].copy_from_slice(path);
                header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
                header.set_entry_type(EntryType::new(b'0' + kind % 8));
                header.set_size(content.len() as u64);
                header.set_mode(0o755);
                header.set_mtime(0);
                header.set_cksum();
                builder.append(&header, content.as_slice()).unwrap();
            }
            let bytes = builder.into_inner().unwrap();
            let _ = runtime.block_on(unpack(&lab, "/in", bytes));
        });
    let mut names: Vec<_> =
        fs::read_dir(lab.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names.retain(|name| name != "in");
    assert_eq!(names, ["etc", "home"]);
}

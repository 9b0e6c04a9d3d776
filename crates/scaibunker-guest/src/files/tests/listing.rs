//! Listing, looking, making, moving and deleting.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use proptest::prelude::*;
use scaibunker_guest_protocol::files::{DeleteCall, EntryType, ListCall, Listing, MoveCall};

use super::*;
use crate::files::{delete, directory, list};

fn call(at: &str, depth: u32, after: Option<FilePath>, limit: u32) -> ListCall {
    ListCall { path: path(at), depth, after, limit, rights: rights() }
}

async fn list(lab: &Lab, call: ListCall) -> Result<Listing, AgentError> {
    lab.as_root(move |tree| list::list(tree, &call)).await
}

fn paths(listing: &Listing) -> Vec<String> {
    let text = |entry: &scaibunker_guest_protocol::files::Entry| {
        String::from_utf8_lossy(entry.path.as_bytes()).into_owned()
    };
    listing.entries.iter().map(text).collect()
}

/// All parts of a list, one after the other.
async fn list_all(lab: &Lab, at: &str, depth: u32, limit: u32) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let part = list(lab, call(at, depth, after.take(), limit)).await.unwrap();
        assert!(part.entries.len() <= limit as usize);
        all.extend(paths(&part));
        if !part.has_more {
            return all;
        }
        after = Some(part.entries.last().unwrap().path.clone());
    }
}

#[tokio::test]
async fn a_directory_comes_before_what_is_in_it() {
    let lab = Lab::new();
    for dir in ["t/a/x", "t/a b", "t/b/y/z"] {
        fs::create_dir_all(lab.path(dir)).unwrap();
    }
    fs::write(lab.path("t/a/file"), "1234").unwrap();
    symlink("/nowhere", lab.path("t/link")).unwrap();
    symlink("/t/b", lab.path("into")).unwrap();
    let listing = list(&lab, call("/t/", 2, None, 100)).await.unwrap();
    let expected = ["/t/a", "/t/a/file", "/t/a/x", "/t/a b", "/t/b", "/t/b/y", "/t/link"];
    assert_eq!(paths(&listing), expected);
    assert!(!listing.has_more);
    assert_eq!(listing.entries[1].size_bytes, 4);
    assert_eq!(listing.entries[6].kind, EntryType::Symlink);
    assert_eq!(listing.entries[6].symlink_target, Some(path("/nowhere")));
    let shallow = list(&lab, call("/into", 1, None, 100)).await.unwrap();
    assert_eq!(paths(&shallow), ["/into/y"]);
    assert_eq!(paths(&list(&lab, call("/", 1, None, 2)).await.unwrap()), ["/etc", "/home"]);
    assert_eq!(list_all(&lab, "/t", 2, 1).await, expected);
}

#[tokio::test]
async fn what_cannot_be_listed_is_refused() {
    let lab = Lab::new();
    let refused = |call| async { kind(list(&lab, call).await) };
    assert_eq!(refused(call("/etc", 0, None, 1)).await, GuestErrorKind::Invalid);
    assert_eq!(refused(call("/etc", 1, None, 1001)).await, GuestErrorKind::Invalid);
    assert_eq!(refused(call("/etc", 1, Some(path("/home/x")), 1)).await, GuestErrorKind::Invalid);
    let after = Some(path("/etc/../home"));
    assert_eq!(refused(call("/etc", 1, after, 1)).await, GuestErrorKind::Invalid);
    assert_eq!(refused(call("/etc/passwd", 1, None, 1)).await, GuestErrorKind::NotADirectory);
    assert_eq!(refused(call("/none", 1, None, 1)).await, GuestErrorKind::NotFound);
}

#[tokio::test]
async fn a_directory_that_may_not_be_read_is_listed_itself() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    fs::create_dir_all(lab.path("home/user/closed/inner")).unwrap();
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(lab.path("home/user/closed"), closed).unwrap();
    let call = call("/home/user", 3, None, 10);
    let listing = lab.as_user(move |tree| list::list(tree, &call)).await.unwrap();
    assert_eq!(paths(&listing), ["/home/user/closed"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn parts_of_any_size_make_up_the_whole(
        names in proptest::collection::btree_set("[a-c.!~]{1,3}(/[a-c-]{1,2}){0,3}", 1..30),
        limit in 1u32..7,
    ) {
        let lab = Lab::new();
        for name in &names {
            if !name.split('/').any(|name| name == "." || name == "..") {
                fs::create_dir_all(lab.path("t").join(name)).unwrap();
            }
        }
        fs::create_dir_all(lab.path("t")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (whole, parts) = runtime.block_on(async {
            (list_all(&lab, "/t", 64, 1000).await, list_all(&lab, "/t", 64, limit).await)
        });
        prop_assert_eq!(&whole, &parts);
        let by_names = |path: &String| -> Vec<Vec<u8>> {
            path.split('/').map(|name| name.as_bytes().to_vec()).collect()
        };
        prop_assert!(whole.is_sorted_by_key(by_names));
    }
}

#[tokio::test]
async fn a_tree_is_deleted_without_following_links() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("t/a/b")).unwrap();
    fs::write(lab.path("t/a/b/file"), "").unwrap();
    symlink("/etc", lab.path("t/a/link")).unwrap();
    let delete = |at: &str, recursive| {
        let call = DeleteCall { path: path(at), recursive, rights: rights() };
        lab.as_root(move |tree| delete::delete(tree, &call))
    };
    assert_eq!(kind(delete("/t", false).await), GuestErrorKind::DirectoryNotEmpty);
    delete("/t/", true).await.unwrap();
    assert!(!lab.path("t").exists() && lab.path("etc/passwd").exists());
    assert_eq!(kind(delete("/t", true).await), GuestErrorKind::NotFound);
    for at in ["/", "", "/.."] {
        assert_eq!(kind(delete(at, true).await), GuestErrorKind::Invalid, "{at}");
    }
    symlink("etc", lab.path("link")).unwrap();
    delete("/link", true).await.unwrap();
    assert!(lab.path("etc/passwd").exists());
}

#[tokio::test]
async fn a_deep_tree_is_deleted_with_few_descriptors() {
    const LEVELS: usize = 3000;
    let lab = Lab::new();
    let mut dir: std::os::fd::OwnedFd = fs::File::open(lab.path("home")).unwrap().into();
    for _ in 0..LEVELS {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        dir = openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let call = DeleteCall { path: path("/home"), recursive: true, rights: rights() };
    lab.as_root(move |tree| delete::delete(tree, &call)).await.unwrap();
    assert!(!lab.path("home").exists());
}

#[tokio::test]
async fn directories_are_made_and_entries_moved() {
    let lab = Lab::new();
    let make = |at: &str, mode| {
        let call = WriteCall { mode, ..write_call(at) };
        lab.as_root(move |tree| directory::make(tree, &call))
    };
    assert_eq!(make("/m/n/o", Some(0o700)).await.unwrap().mode, 0o700);
    assert_eq!(make("/m/n/", None).await.unwrap().mode, 0o755);
    assert_eq!(make("/m/n/o", None).await.unwrap().mode, 0o700);
    assert_eq!(make("/", None).await.unwrap().kind, EntryType::Directory);
    assert_eq!(kind(make("/etc/passwd", None).await), GuestErrorKind::Exists);
    assert_eq!(kind(make("/etc/passwd/x", None).await), GuestErrorKind::NotADirectory);

    let relocate = |from: &str, to: &str, overwrite| {
        let call = MoveCall { path: path(from), to: path(to), overwrite, rights: rights() };
        lab.as_root(move |tree| directory::relocate(tree, &call))
    };
    assert_eq!(relocate("/m/n", "/moved", false).await.unwrap().path, path("/moved"));
    assert!(lab.path("moved/o").is_dir());
    fs::write(lab.path("x"), "x").unwrap();
    assert_eq!(kind(relocate("/x", "/etc/passwd", false).await), GuestErrorKind::Exists);
    relocate("/x", "/etc/passwd", true).await.unwrap();
    assert_eq!(fs::read(lab.path("etc/passwd")).unwrap(), b"x");
    assert_eq!(kind(relocate("/moved", "/moved/o/p", false).await), GuestErrorKind::Invalid);
    assert_eq!(kind(relocate("/none", "/y", false).await), GuestErrorKind::NotFound);
}

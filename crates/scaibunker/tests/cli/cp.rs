//! `cp`: every form of both sides.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    fake_controller::FakeController,
    fake_files::Node,
    program::{Ended, client, ended, finish, run_with_input, send, start},
    pseudo_terminal::PseudoTerminal,
};

/// A bunker `b` and a directory of this machine.
struct Setup {
    controller: FakeController,
    dir: TempDir,
}

impl Setup {
    async fn new() -> Self {
        let controller = FakeController::start().await;
        controller.add_bunker(json!({"name": "b"}));
        Self { controller, dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Copies, with paths of this machine in the directory.
    async fn cp(&self, from: &str, to: &str) -> Ended {
        let mut command = client(&self.controller, &["cp", from, to]);
        ended(command.current_dir(self.dir.path())).await
    }

    async fn copied(&self, from: &str, to: &str) {
        let ended = self.cp(from, to).await;
        assert_eq!((ended.code, ended.text(), ended.stderr.as_str()), (0, "", ""), "{from} {to}");
    }

    async fn refused(&self, from: &str, to: &str, parts: &[&str]) {
        let ended = self.cp(from, to).await;
        assert_eq!(
            (ended.code, ended.text(), ended.stderr.lines().count()),
            (1, "", 1),
            "{ended:?}"
        );
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    }

    fn node(&self, path: &str) -> Option<Node> {
        self.controller.seen().files.get(path).cloned()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The names in the directory.
    fn names(&self, directory: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(directory)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_file_goes_where_cp_would_put_it() {
    let setup = Setup::new().await;
    setup.write("a:b", "x", 0o750);
    for (to, place) in [
        ("b:/new", "/new"),
        ("b:/home", "/home/a:b"),
        ("b:/home/", "/home/a:b"),
        ("b:/way", "/way/a:b"),
        ("b:/", "/a:b"),
        ("b:/made/", "/made/a:b"),
        ("b:/home/tool", "/home/tool"),
    ] {
        setup.controller.seen.send_modify(|seen| seen.puts.clear());
        setup.copied("./a:b", to).await;
        assert_eq!(setup.controller.seen().puts, [place]);
        assert_eq!(setup.node(place), Some(Node::File(b"x".to_vec(), 0o750)));
    }
    setup.refused("./a:b", "b:/home/tool/", &["/home/tool", "not a directory"]).await;
}

#[tokio::test]
async fn odd_names_are_copied() {
    let setup = Setup::new().await;
    setup.write("new\nline ü%", "x", 0o644);
    setup.copied("./new\nline ü%", "b:/home").await;
    assert!(setup.node("/home/new\nline ü%").is_some());
    setup.copied("b:/home/new\nline ü%", "back").await;
    assert_eq!(setup.read("back"), "x");
}

#[tokio::test]
async fn a_large_file_is_uploaded_and_committed() {
    let setup = Setup::new().await;
    let largest: Vec<u8> = (0..10 << 20).map(|n: u32| ((n * 7) >> 3) as u8).collect();
    setup.write("largest", &largest, 0o600);
    setup.copied("largest", "b:/largest").await;
    assert_eq!(setup.node("/largest"), Some(Node::File(largest.clone(), 0o600)));
    assert!(setup.controller.seen().uploads.is_empty());

    let larger = [largest.as_slice(), b"!"].concat();
    setup.write("larger", &larger, 0o711);
    setup.copied("larger", "b:/home").await;
    assert!(setup.node("/home/larger") == Some(Node::File(larger.clone(), 0o711)));
    let seen = setup.controller.seen();
    assert_eq!(seen.uploads, [json!({"size_bytes": larger.len()})]);
    assert_eq!((seen.puts.as_slice(), seen.commits.len()), (&["/largest".to_owned()][..], 1));

    let input = larger.repeat(2);
    let ended = run_with_input(&setup.controller, &["cp", "-", "b:/stream"], &input).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(setup.node("/stream") == Some(Node::File(input, 0o644)));
}

#[tokio::test]
async fn standard_input_and_pipes_are_copied() {
    let setup = Setup::new().await;
    setup.refused("-", "b:/way", &["/way", "is a directory", "name the file"]).await;
    let ended = run_with_input(&setup.controller, &["cp", "-", "b:/in"], b"typed").await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert_eq!(setup.node("/in"), Some(Node::File(b"typed".to_vec(), 0o644)));
    setup.write("empty", "", 0o755);
    setup.copied("empty", "b:/empty").await;
    assert_eq!(setup.node("/empty"), Some(Node::File(vec![], 0o755)));
    // It is longer than its size says.
    setup.copied("/proc/self/status", "b:/status").await;
    let Some(Node::File(status, _)) = setup.node("/status") else { panic!() };
    assert!(status.starts_with(b"Name:"));
}

#[tokio::test]
async fn a_directory_goes_in_with_all_that_is_in_it() {
    let setup = Setup::new().await;
    fs::create_dir_all(setup.path("tree/sub/empty")).unwrap();
    setup.write("tree/sub/run", vec![7; 300_000], 0o755);
    symlink("sub/run", setup.path("tree/link")).unwrap();
    symlink("/nowhere", setup.path("tree/dangling")).unwrap();
    let long = "n".repeat(200);
    setup.write(&format!("tree/sub/{long}"), "long", 0o600);
    for (from, to, place) in [
        ("tree", "b:/new", "/new"),
        ("tree", "b:/home", "/home/tree"),
        ("tree/.", "b:/home/sub", "/home/sub"),
    ] {
        setup.copied(from, to).await;
        assert_eq!(setup.controller.seen().puts.last().unwrap(), place);
        let node = |name: &str| setup.node(&format!("{place}/{name}"));
        assert_eq!(node("sub/empty"), Some(Node::Directory));
        assert_eq!(node("sub/run"), Some(Node::File(vec![7; 300_000], 0o755)));
        assert_eq!(node(&format!("sub/{long}")), Some(Node::File(b"long".to_vec(), 0o600)));
        assert_eq!(node("link"), Some(Node::Link("sub/run".to_owned())));
        assert_eq!(node("dangling"), Some(Node::Link("/nowhere".to_owned())));
    }
    setup.refused("tree", "b:/home/tool", &["/home/tool", "not a directory"]).await;
    let socket = std::os::unix::net::UnixListener::bind(setup.path("tree/socket")).unwrap();
    let ended = setup.cp("tree", "b:/with-socket").await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (0, "1 pipes, sockets or devices were left out\n")
    );
    drop(socket);
}

#[tokio::test]
async fn a_file_comes_out_where_cp_would_put_it() {
    let setup = Setup::new().await;
    fs::create_dir(setup.path("dir")).unwrap();
    setup.write("old", "old", 0o600);
    symlink("old", setup.path("to-old")).unwrap();
    for (to, place) in [
        ("new", "new"),
        ("dir", "dir/tool"),
        ("dir/", "dir/tool"),
        (".", "tool"),
        ("to-old", "old"),
    ] {
        setup.copied("b:/home/tool", to).await;
        assert_eq!(setup.read(place), "tool\n", "{to}");
        let mode = fs::metadata(setup.path(place)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755 & !0o022, "{to}: {mode:o}");
    }
    assert!(fs::symlink_metadata(setup.path("to-old")).unwrap().is_symlink());
    setup.copied("b:/home/link", "of-link").await;
    assert_eq!(setup.read("of-link"), "tool\n");
    assert_eq!(setup.cp("b:/home/tool", "-").await.text(), "tool\n");
    setup.copied("b:/home/tool", "/dev/null").await;
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    setup.refused("b:/home/tool", "none/", &["none/", "mkdir -p"]).await;
    setup.refused("b:/home/tool", "none/x", &["none", "mkdir -p"]).await;
    fs::create_dir(setup.path("dir/deep")).unwrap();
    setup.refused("b:/home/sub/deep", "dir", &["is a directory"]).await;
}

#[tokio::test]
async fn a_directory_comes_out_with_all_that_is_in_it() {
    let setup = Setup::new().await;
    setup.controller.seen.send_modify(|seen| _ = seen.files.remove("/home/cut"));
    fs::create_dir(setup.path("into")).unwrap();
    for (from, to, place) in [
        ("b:/home", "new", "new"),
        ("b:/home/", "into", "into/home"),
        ("b:/way", "into", "into/way"),
        ("b:/home/.", "into", "into"),
    ] {
        setup.copied(from, to).await;
        assert_eq!(setup.read(&format!("{place}/sub/deep")), "deep\n");
        assert_eq!(fs::metadata(setup.path(place).join("sub/deep")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(setup.path(place).join("link")).unwrap(), Path::new("tool"));
    }
    let tar = setup.cp("b:/home/sub", "-").await;
    let mut archive = tar::Archive::new(tar.stdout.as_slice());
    let names: Vec<_> =
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [Path::new("deep")]);
    setup.write("file", "", 0o644);
    setup.refused("b:/home", "file", &["file"]).await;
}

#[tokio::test]
async fn what_fails_leaves_nothing_and_says_why() {
    let setup = Setup::new().await;
    setup.write("x", "x", 0o644);
    setup.write("kept", "old", 0o644);
    setup.refused("b:/home/cut", "kept", &["/home/cut", "connection to the server broke"]).await;
    assert_eq!(
        (setup.read("kept").as_str(), setup.names(".")),
        ("old", vec!["kept".to_owned(), "x".to_owned()])
    );
    setup.refused("b:/none", "y", &["/none", "FILE_NOT_FOUND", "[req_"]).await;
    setup.refused("b:/denied", "y", &["FILE_ACCESS_DENIED"]).await;
    setup.refused("x", "b:/denied/x", &["FILE_ACCESS_DENIED", "scaibunker:root"]).await;
    setup.refused("none", "b:/x", &["cannot read none"]).await;
    setup.refused("b:/x", "b:/y", &["one of the two", "cp A:/path -"]).await;
    setup.refused("x", "y", &["BUNKER:/path"]).await;
    setup.refused("x", "nobody:/y", &["nobody", "scaibunker ls"]).await;
    let ended = setup.cp("x", "b:relative").await;
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("absolute"), "{}", ended.stderr);
}

#[tokio::test]
async fn people_see_how_far_it_is() {
    let setup = Setup::new().await;
    setup.write("large", vec![0; 30 << 20], 0o644);
    for (quiet, is_shown) in [(None, true), (Some("-q"), false)] {
        let args: Vec<_> = ["cp", "large", "b:/large"].into_iter().chain(quiet).collect();
        let mut command = client(&setup.controller, &args);
        command.current_dir(setup.dir.path()).env("TERM", "xterm");
        let mut person = PseudoTerminal::start(command, 100, 30);
        if is_shown {
            person.shows("/30.00 MiB").await;
        }
        assert_eq!(person.code().await, 0);
        assert_eq!(person.text().contains("MiB"), is_shown, "{}", person.text());
    }
}

#[tokio::test]
async fn a_copy_that_is_interrupted_leaves_nothing() {
    let setup = Setup::new().await;
    setup.controller.seen.send_modify(|seen| {
        let endless = Node::File(b"the beginning".to_vec(), 0o644);
        seen.files.insert("/home/stuck".to_owned(), endless);
    });
    let mut command = client(&setup.controller, &["cp", "b:/home/stuck", "."]);
    let child = start(command.current_dir(setup.dir.path()));
    let begun = async || {
        while setup.names(".").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), begun()).await.unwrap();
    send(&child, Signal::TERM);
    assert_eq!(finish(child).await.code, 143);
    assert!(setup.names(".").is_empty());
}

#[tokio::test]
async fn a_large_file_that_the_store_does_not_take_is_not_committed() {
    let setup = Setup::new().await;
    setup.write("large", vec![0; 11 << 20], 0o644);
    setup.controller.seen.send_modify(|seen| seen.store_is_full = true);
    setup.refused("large", "b:/large", &["large", "503", "the store is full"]).await;
    assert!(setup.controller.seen().commits.is_empty());
}

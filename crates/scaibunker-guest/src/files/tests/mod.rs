//! Calls on a tree in a temporary directory, on the threads that really make them.

mod archives;
mod changes;
mod content;
mod listing;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use scaibunker_guest_protocol::{
    GuestErrorKind,
    files::{FilePath, Rights, WriteCall},
};

use super::{threads::FileThreads, tree::Tree};
use crate::{error::AgentError, root::BunkerRoot};

const USER: u32 = 1000;

/// A bunker's root with two users, `user` and `root`.
struct Lab {
    dir: tempfile::TempDir,
    root: Arc<BunkerRoot>,
    threads: FileThreads,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        let home = dir.path().join("home/user");
        fs::create_dir_all(&home).unwrap();
        let root = Arc::new(BunkerRoot::at(dir.path()));
        let lab = Self { dir, root, threads: FileThreads::default() };
        if is_root() {
            std::os::unix::fs::chown(&home, Some(USER), Some(USER)).unwrap();
        }
        lab
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Runs work with root's rights; new files are those of whoever runs the tests.
    async fn as_root<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        self.threads.run(Arc::clone(&self.root), Rights { as_root: true, user: None }, work).await
    }

    async fn as_user<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        let rights = Rights { as_root: false, user: Some("user".to_owned()) };
        self.threads.run(Arc::clone(&self.root), rights, work).await
    }
}

/// Taking on another user's rights takes root.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn path(path: &str) -> FilePath {
    FilePath::new(path).unwrap()
}

fn rights() -> Rights {
    Rights { as_root: true, user: None }
}

fn write_call(to: &str) -> WriteCall {
    WriteCall { path: path(to), mode: None, uid: None, gid: None, rights: rights() }
}

fn kind<T: std::fmt::Debug>(result: Result<T, AgentError>) -> GuestErrorKind {
    result.unwrap_err().kind()
}

fn owner(path: &std::path::Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

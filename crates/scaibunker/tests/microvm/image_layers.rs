//! Layers of a small image that boots, made around the busybox of a bunker.

use http::Method;
use serde_json::{Value, json};

use crate::server::Server;

const APPLETS: [&str; 12] =
    ["cat", "echo", "env", "find", "id", "ls", "pwd", "readlink", "sh", "sleep", "stat", "wc"];

/// What a tar is made of.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn file(self, path: &str, bytes: &[u8], mode: u32, owner: (u64, u64)) -> Self {
        self.entry(path, tar::EntryType::Regular, None, mode, owner, bytes)
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, None, mode, (0, 0), &[])
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, Some(target), 0o777, (0, 0), &[])
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, Some(target), 0o644, (0, 0), &[])
    }

    pub fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Char);
        header.set_path(path).unwrap();
        header.set_mode(0o620);
        header.set_size(0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        link: Option<&str>,
        mode: u32,
        (uid, gid): (u64, u64),
        bytes: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        // Past the builder's own checks: a layer may say anything.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_000_000_000);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }

    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// The lowest layer: busybox under its names, and two users.
pub async fn base(server: &Server) -> Layer {
    let id = server.bunker().await;
    let path = format!("/bunkers/{id}/files/bin/busybox");
    let busybox = server.fetch(Method::GET, &path, &[], "").await;
    assert!(busybox.status().is_success());
    server.delete(&id).await.data();
    let mut layer = Layer::new()
        .dir("bin", 0o755)
        .dir("etc", 0o755)
        .dir("srv", 0o755)
        .file("bin/busybox", busybox.body(), 0o755, (0, 0))
        .file(
            "etc/passwd",
            b"root:x:0:0::/root:/bin/sh\napp:x:1234:77::/srv:/bin/sh\n",
            0o644,
            (0, 0),
        )
        .file("etc/group", b"root:x:0:\nteam:x:77:\n", 0o644, (0, 0));
    for applet in APPLETS {
        layer = layer.symlink(&format!("bin/{applet}"), "/bin/busybox");
    }
    layer
}

/// Its configuration.
pub fn config() -> Value {
    json!({ "User": "app", "Env": ["PATH=/bin", "COLOUR=blue"], "WorkingDir": "/srv" })
}

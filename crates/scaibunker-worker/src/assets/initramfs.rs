//! The initramfs: the guest agent as `/init`, and the modules it loads.
//!
//! The same agent and modules always give the same bytes, and the file is named after their
//! digest.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{AssetError, Progress, hexadecimal, io_failed, slot};

const DIRECTORIES: [&str; 7] = ["dev", "modules", "newroot", "proc", "run", "sys", "tmp"];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Puts the initramfs into `dir`, unless it is there already. `modules` are in load order.
pub async fn initramfs(
    dir: &Path,
    agent: &[u8],
    modules: &[(String, Vec<u8>)],
    progress: &Progress,
) -> Result<PathBuf, AssetError> {
    let archive = archive(agent, modules);
    let path = dir.join(format!("{}.cpio", hexadecimal(&Sha256::digest(&archive))));
    fs::create_dir_all(dir).map_err(io_failed("make", dir))?;
    // A file of that name and size holds these bytes: it got its name when it was whole.
    if fs::metadata(&path).is_ok_and(|found| found.len() == archive.len() as u64) {
        return Ok(path);
    }
    let _lock = slot::lock(dir, progress).await?;
    let part = dir.join("part");
    let write = || {
        let mut file = fs::File::create(&part)?;
        file.write_all(&archive)?;
        file.sync_all()?;
        fs::rename(&part, &path)
    };
    write().map_err(io_failed("write", &path))?;
    Ok(path)
}

fn archive(agent: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    for directory in DIRECTORIES {
        cpio.add(directory, DIRECTORY, (0, 0), b"");
    }
    // The kernel opens it for the first process's standard streams before devtmpfs is mounted.
    cpio.add("dev/console", CHARACTER_DEVICE, (5, 1), b"");
    cpio.add("init", PROGRAM, (0, 0), agent);
    for (index, (name, bytes)) in modules.iter().enumerate() {
        cpio.add(&format!("modules/{index:02}-{name}.ko"), FILE, (0, 0), bytes);
    }
    cpio.finish()
}

/// Writes the `newc` format: a header of hexadecimal numbers, the name, the contents, each padded
/// to four bytes (the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, the file system's device, the node's own
        // device, length of the name with its final zero, checksum
        let header = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            contents.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for number in header {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn modules() -> Vec<(String, Vec<u8>)> {
        vec![("virtio_ring".to_owned(), b"ring".to_vec()), ("virtio".to_owned(), vec![7; 1001])]
    }

    #[test]
    fn headers_and_padding_are_those_of_newc() {
        let archive = archive(b"agent", &modules());
        assert_eq!(archive.len() % 4, 0);
        assert!(archive.starts_with(b"07070100000001000041ed"));
        let text = String::from_utf8_lossy(&archive);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("modules/00-virtio_ring.ko") < at("modules/01-virtio.ko"));
        assert!(at("modules/01-virtio.ko") < at("TRAILER!!!"));
    }

    /// The reference implementation, where it is installed.
    #[test]
    fn cpio_reads_the_archive() {
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive(b"agent", &modules())).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        let line = |name: &str| listing.lines().find(|line| line.ends_with(name)).unwrap();
        assert!(line(" init").starts_with("-rwxr-xr-x"));
        assert!(line(" dev/console").starts_with("crw"));
        assert!(line("modules/01-virtio.ko").contains(" 1001 "));
        assert!(line(" newroot").starts_with("drwxr-xr-x"));
    }

    #[tokio::test]
    async fn equal_contents_are_one_file_and_a_cut_one_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let make = |agent: &'static [u8]| async {
            initramfs(dir.path(), agent, &modules(), &|_| {}).await.unwrap()
        };
        let path = make(b"agent").await;
        assert_eq!(make(b"agent").await, path);
        assert_ne!(make(b"other").await, path);
        fs::write(&path, "cut").unwrap();
        assert_eq!(make(b"agent").await, path);
        assert_eq!(fs::read(&path).unwrap(), archive(b"agent", &modules()));
    }
}

//! Hosts of a test's own: a network and a disk for each, in namespaces that the kernel removes with
//! the processes in them, however those end.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::{
    mount::{UnmountFlags, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::servers::process::{ServerProcess, Signal};

/// The address of the test itself, and of all that it starts outside its hosts.
pub const TEST_ADDRESS: &str = "198.18.0.1";
const BRIDGE: &str = "fleet";
const HOST_LIMIT: Duration = Duration::from_secs(10);

/// Runs a test in a network and with mounts that only it and its processes see.
pub fn in_own_namespaces<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: files stay as they are; nothing else of this thread depends on these namespaces.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS).unwrap() };
        run(&["mount", "--make-rprivate", "/"]);
        run(&["ip", "link", "set", "lo", "up"]);
        run(&["ip", "link", "add", BRIDGE, "type", "bridge"]);
        run(&["ip", "address", "add", &format!("{TEST_ADDRESS}/24"), "dev", BRIDGE]);
        run(&["ip", "link", "set", BRIDGE, "up"]);
        // Its threads, and the processes that they start, are of this thread's namespaces.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A host of its own on the test's network.
pub struct Host {
    /// Holds the namespace.
    holder: ServerProcess,
    link: String,
}

impl Host {
    pub fn new(number: usize) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let holder = ServerProcess::spawn(command, Signal::KILL);
        let host = Self { holder, link: format!("host{number}") };
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let deadline = Instant::now() + HOST_LIMIT;
        while fs::read_link(host.namespace()).is_ok_and(|namespace| namespace == own) {
            assert!(Instant::now() < deadline, "no namespace for a host");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (link, pid) = (host.link.as_str(), host.pid());
        run(&["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run(&["ip", "link", "set", link, "master", BRIDGE, "up"]);
        let address = format!("198.18.0.{}/24", 10 + number);
        for args in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &address, "dev", "eth0"],
            &["link", "set", "eth0", "up"],
        ] {
            let net = format!("--net={}", host.namespace().display());
            run(&[&["nsenter", &net, "ip"], args].concat());
        }
        host
    }

    /// The file that stands for its network.
    pub fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    /// Takes its cable out.
    pub fn cut(&self) {
        run(&["ip", "link", "set", &self.link, "down"]);
    }

    /// Puts it back in.
    pub fn mend(&self) {
        run(&["ip", "link", "set", &self.link, "up"]);
    }

    fn pid(&self) -> String {
        self.holder.pid().as_raw_nonzero().to_string()
    }
}

/// A small disk of a host. Only in [`in_own_namespaces`]: nobody else sees the mount.
pub struct Disk(PathBuf);

impl Disk {
    pub fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0755");
        run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", at.to_str().unwrap()]);
        Self(at.to_owned())
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        let file = fs::File::create(self.filling()).unwrap();
        let piece = vec![0u8; 1 << 20];
        let (mut at, mut size) = (0, piece.len());
        while size > 0 {
            match file.write_at(&piece[..size], at) {
                Ok(written) => at += written as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Makes room again.
    pub fn empty(&self) {
        fs::remove_file(self.filling()).unwrap();
    }

    fn filling(&self) -> PathBuf {
        self.0.join("filling")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn run(line: &[&str]) {
    let output = Command::new(line[0]).args(&line[1..]).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
}

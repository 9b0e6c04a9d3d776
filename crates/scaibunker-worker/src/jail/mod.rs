//! The box around a VMM process: own uid, own namespaces, own cgroup, an empty file system with
//! only the program and its libraries, no capabilities, no new privileges.
//!
//! The VMM gets everything else (disks, sockets, memory) as open descriptors, so the box holds no
//! path that another tenant could name. The system call filter is the VMM's own, switched on by
//! its command line (`engine/qemu/command.rs`).

mod cgroup;
mod child;
mod process;

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

pub use cgroup::{Cgroup, CgroupLimits, CgroupRoot, CpuPriority};
pub use process::JailedProcess;

/// First uid of the range that jailed processes get, one each. The range lies above those that
/// systemd hands to containers (<https://systemd.io/UIDS-GIDS/>).
pub const FIRST_UID: u32 = 1_900_000_000;

/// Descriptor number of the first passed file in the jailed process; the others follow it.
pub const FIRST_FD: i32 = 10;

/// Who the jailed process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// The server is root: the process becomes this uid and gid, which nothing else uses.
    OwnUid(u32),
    /// The server is an ordinary user: a user namespace in which only that user exists.
    UserNamespace,
}

/// What to run in a jail.
#[derive(Debug)]
pub struct JailSpec<'a> {
    pub program: CString,
    pub args: Vec<CString>,
    pub privilege: Privilege,
    /// Existing empty directory on which the jail's root is mounted, in its own mount namespace.
    pub root: PathBuf,
    /// Host files and directories that appear read-only under the same path; missing ones are
    /// left out.
    pub visible: Vec<PathBuf>,
    /// Character devices that appear under the same path.
    pub devices: Vec<PathBuf>,
    /// Passed as descriptors [`FIRST_FD`], [`FIRST_FD`] + 1, …
    pub files: Vec<OwnedFd>,
    /// Receives stderr; anything the program prints is for the log, never trusted.
    pub stderr: OwnedFd,
    pub cgroup: Option<&'a Cgroup>,
    /// No file the process writes may grow past this.
    pub max_file_bytes: u64,
    /// Memory that the process may keep devices from losing.
    pub max_locked_bytes: u64,
}

/// The jail could not be set up; nothing was left running.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("cannot prepare the jail: {what}")]
    Prepare { what: &'static str, source: io::Error },
    #[error("cannot set up the jail at step `{step}`")]
    Setup { step: &'static str, source: io::Error },
    #[error("cgroup: cannot {what} {path}")]
    Cgroup { what: &'static str, path: String, source: io::Error },
}

/// Starts the program in a jail and returns once it has been executed.
///
/// `write_down` gets the process's pid before the process does anything: should this server die
/// at any moment, the process either was written down or ends by itself. Blocks for the few
/// milliseconds the set-up takes.
pub fn spawn(
    spec: JailSpec<'_>,
    write_down: impl FnOnce(i32) -> io::Result<()>,
) -> Result<JailedProcess, JailError> {
    let plan = child::Plan::new(&spec)?;
    let procs: Vec<_> = match spec.cgroup {
        Some(cgroup) => cgroup.procs_files()?,
        None => Vec::new(),
    };
    let procs: Vec<i32> = procs.iter().map(AsRawFd::as_raw_fd).collect();
    child::spawn(&plan, &procs, write_down)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek},
    };

    use super::*;

    fn privilege() -> Privilege {
        if rustix::process::geteuid().is_root() {
            Privilege::OwnUid(FIRST_UID + 99_999)
        } else {
            Privilege::UserNamespace
        }
    }

    /// Runs a shell script in a jail and returns what it wrote to stderr.
    async fn run(script: &str, files: Vec<OwnedFd>, max_file_bytes: u64) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut log = tempfile::tempfile().unwrap();
        let visible = ["/bin/bash", "/usr/bin", "/usr/lib", "/lib", "/lib64"];
        let process = spawn(
            JailSpec {
                program: c"/bin/bash".into(),
                args: vec![c"-c".into(), CString::new(script).unwrap()],
                privilege: privilege(),
                root: dir.path().to_path_buf(),
                visible: visible.map(PathBuf::from).into(),
                devices: Vec::new(),
                files,
                stderr: log.try_clone().unwrap().into(),
                cgroup: None,
                max_file_bytes,
                max_locked_bytes: 0,
            },
            |_| Ok(()),
        )
        .unwrap();
        process.ended().await.unwrap();
        let mut text = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_process_sees_nothing_of_the_host_and_can_do_nothing() {
        let text = run(
            "ls / >&2; cat /proc/self/status >&2; ls /proc/*/comm >&2; ls /sys/class/net >&2;
             echo x > /proof; touch /usr/lib/proof",
            Vec::new(),
            1 << 20,
        )
        .await;
        assert!(text.starts_with("bin\nlib\nlib64\nproc\nusr\n"), "{text}");
        for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
            assert!(text.contains(line) || privilege() == Privilege::UserNamespace, "{text}");
        }
        assert!(text.contains("/proc/1/comm"), "{text}");
        assert!(text.contains("Read-only file system"), "{text}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_arrive_as_the_promised_numbers_and_are_bounded() {
        let mut file = tempfile::tempfile().unwrap();
        let copy = file.try_clone().unwrap().into();
        let script = "dd if=/usr/bin/dd bs=1024 count=8 >&10; echo $? >&2";
        let text = run(script, vec![copy], 4096).await;
        assert!(text.ends_with("1\n"), "{text}");
        assert_eq!(file.seek(io::SeekFrom::End(0)).unwrap(), 4096);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_step_is_named_and_nothing_is_left() {
        let error = spawn(
            JailSpec {
                program: c"/no/such/program".into(),
                args: Vec::new(),
                privilege: privilege(),
                root: tempfile::tempdir().unwrap().path().to_path_buf(),
                visible: Vec::new(),
                devices: Vec::new(),
                files: Vec::new(),
                stderr: File::open("/dev/null").unwrap().into(),
                cgroup: None,
                max_file_bytes: 0,
                max_locked_bytes: 0,
            },
            |_| Ok(()),
        )
        .unwrap_err();
        assert!(matches!(error, JailError::Setup { step: "execute the program", .. }), "{error:?}");
    }
}

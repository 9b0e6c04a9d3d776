//! From the kernel's hand-over to a state worth cloning: agent ready, nothing mounted yet.

use std::{
    fs::{self, File, OpenOptions},
    io,
    mem::MaybeUninit,
    os::{
        fd::{FromRawFd, IntoRawFd, OwnedFd},
        unix::fs::symlink,
    },
    ptr,
};

use rustix::{
    fs::Mode,
    io::Errno,
    mount::{MountFlags, mount},
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask},
};

use crate::{cgroup::BunkerCgroup, check, error::AgentError, log::Log, network, port::Port};

/// Stack of a thread that starts a command.
pub const THREAD_STACK_BYTES: usize = 128 * 1024;

/// Commands that are being started at the same time; each occupies a thread until it runs.
pub const MAX_THREADS: usize = 32;

/// For the agent: a command needs six, and a call on files up to one a directory level.
const OPEN_FILES: Rlimit = Rlimit { current: Some(16_384), maximum: Some(1 << 20) };

/// Where the initramfs keeps kernel modules; their names sort in loading order.
const MODULES_DIR: &str = "/modules";

/// What a distribution's init would set: without them a shared `/tmp` invites link tricks.
const SYSCTLS: [(&str, &str); 4] = [
    ("/proc/sys/fs/protected_hardlinks", "1"),
    ("/proc/sys/fs/protected_symlinks", "1"),
    ("/proc/sys/fs/protected_fifos", "1"),
    ("/proc/sys/fs/protected_regular", "2"),
];

/// What programs expect in `/dev` beside the kernel's own nodes.
const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// What serving needs.
pub struct Booted {
    pub port: Port,
    pub cgroup: BunkerCgroup,
    /// Readable when a child has ended.
    pub children: OwnedFd,
    pub log: Log,
}

/// Makes the initramfs a place to live in and finds the channel's port.
pub fn boot() -> Result<Booted, AgentError> {
    umask(Mode::from_raw_mode(0o022));
    bound_the_heap();
    // Threads that act for a user must not be that user's to trace, nor their files in `/proc`
    // that user's to open.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(AgentError::io("keep the agent's memory to itself"))?;
    setrlimit(Resource::Nofile, OPEN_FILES).map_err(AgentError::io("raise the file limit"))?;
    let hardened = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_at("devtmpfs", "/dev", MountFlags::NOSUID)?;
    mount_at("proc", "/proc", hardened | MountFlags::NODEV)?;
    mount_at("sysfs", "/sys", hardened | MountFlags::NODEV)?;
    point_stdio_at_null().map_err(AgentError::io("open /dev/null"))?;
    let children = block_signals().map_err(AgentError::io("watch for ended children"))?;
    fs::write("/proc/self/oom_score_adj", "-1000")
        .map_err(AgentError::io("leave the OOM killer's list"))?;

    let log = Log::default();
    load_modules(&log)?;
    mount_at("cgroup2", "/sys/fs/cgroup", hardened | MountFlags::NODEV)?;
    let cgroup = BunkerCgroup::create()?;
    for (path, value) in SYSCTLS {
        fs::write(path, value).map_err(AgentError::io(format!("write {path}")))?;
    }
    for (target, link) in DEV_LINKS {
        symlink(target, link).map_err(AgentError::io(format!("make {link}")))?;
    }
    network::raise("lo").map_err(AgentError::io("bring up the loopback interface"))?;
    let port = Port::open().map_err(AgentError::io("open the channel's port"))?;
    Ok(Booted { port, cgroup, children, log })
}

/// One heap for all threads: each further one would cost every clone pages of its own.
fn bound_the_heap() {
    // SAFETY: the option only concerns heaps not made yet; no other thread runs.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

fn mount_at(kind: &str, path: &str, flags: MountFlags) -> Result<(), AgentError> {
    fs::create_dir_all(path).map_err(AgentError::io(format!("make {path}")))?;
    mount(kind, path, kind, flags, None).map_err(AgentError::io(format!("mount {path}")))
}

/// The kernel leaves descriptors 0–2 closed, or open on a console that may block for ever.
fn point_stdio_at_null() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?.into_raw_fd();
    for number in 0..=2 {
        if null != number {
            // SAFETY: plain descriptor numbers; nothing owns 0–2 in a process without stdio.
            check(unsafe { libc::dup2(null, number) })?;
        }
    }
    if null > 2 {
        // SAFETY: opened above and given up by its `File`.
        drop(unsafe { OwnedFd::from_raw_fd(null) });
    }
    Ok(())
}

/// Blocks every signal in this thread and those it starts, and returns a descriptor that reads
/// when a child ends. Without handlers, PID 1 takes no signal from its own VM at all.
fn block_signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is filled by the first call of each pair before it is read.
    unsafe {
        check(libc::sigfillset(set.as_mut_ptr()))?;
        check(libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()))?;
        check(libc::sigemptyset(set.as_mut_ptr()))?;
        check(libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD))?;
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        Ok(OwnedFd::from_raw_fd(check(fd)?))
    }
}

/// Loads every module and gives their files' memory back.
fn load_modules(log: &Log) -> Result<(), AgentError> {
    let failed = || AgentError::io(format!("read {MODULES_DIR}"));
    let mut paths = fs::read_dir(MODULES_DIR)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
        .map_err(failed())?;
    paths.sort();
    for path in paths {
        let file = File::open(&path).map_err(failed())?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            // What is missing shows where it is needed; what was not needed is no failure.
            Err(error) => log.line(format!("cannot load {}: {error}", path.display())),
        }
        fs::remove_file(&path).map_err(failed())?;
    }
    Ok(())
}

/// Finds a disk by the serial number the host gave it.
pub fn find_disk(serial: &str) -> Result<String, AgentError> {
    let failed = || AgentError::io("list the disks");
    for entry in fs::read_dir("/sys/block").map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim_end() == serial {
            return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    let missing = io::Error::new(io::ErrorKind::NotFound, "no such disk");
    Err(AgentError::io(format!("find the disk `{serial}`"))(missing))
}

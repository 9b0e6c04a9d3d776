//! Between `clone3` and `execve`.
//!
//! The child of a multi-threaded process may only make plain system calls: another thread may
//! have held any lock, the allocator's among them. So all strings and lists are made before the
//! clone ([`Plan`]), and the child only walks over them.

use std::{
    ffi::{CStr, CString},
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    ptr,
};

use libc::{c_int, c_ulong};

use super::{FIRST_FD, JailError, JailSpec, JailedProcess, Privilege};

/// Highest capability number to drop from the bounding set; unknown ones fail harmlessly.
const LAST_CAPABILITY: c_ulong = 63;

/// Threads and processes of one jail: a VMM has a handful of threads and up to 64 for disk I/O.
const MAX_OPEN_FILES: u64 = 256;

/// Of at most 1000, which means "first".
const OOM_SCORE: &CStr = c"500";

/// Steps of the set-up, in order, as they appear in an error.
const STEPS: [&str; 14] = [
    "wait for the parent",
    "enter the cgroup",
    "volunteer for the out-of-memory killer",
    "make mounts private",
    "mount the jail's root",
    "make a mount point",
    "bind a visible path",
    "make a visible path read-only",
    "mount /proc",
    "change the root",
    "set limits",
    "drop privileges",
    "pass descriptors",
    "execute the program",
];

#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Wait,
    Cgroup,
    OomScore,
    Private,
    Root,
    MountPoint,
    Bind,
    ReadOnly,
    Proc,
    Pivot,
    Limits,
    Privileges,
    Descriptors,
    Execute,
}

/// Where a mount goes, relative to the jail's root.
struct Bind {
    source: CString,
    target: CString,
    /// Directories to make first, outermost first.
    parents: Vec<CString>,
    is_dir: bool,
    is_device: bool,
}

/// Everything the child needs, in memory that it only reads.
pub(super) struct Plan {
    program: CString,
    args: Vec<CString>,
    root: CString,
    binds: Vec<Bind>,
    privilege: Privilege,
    /// Groups through which an own uid may open the devices.
    groups: Vec<libc::gid_t>,
    /// Copies above the range of target numbers, so that no `dup2` overwrites a later source.
    files: Vec<OwnedFd>,
    stderr: OwnedFd,
    null: OwnedFd,
    max_file_bytes: u64,
    max_locked_bytes: u64,
}

fn prepare(what: &'static str) -> impl Fn(io::Error) -> JailError {
    move |source| JailError::Prepare { what, source }
}

fn c_path(path: &Path) -> Result<CString, JailError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| prepare("path with a NUL byte")(e.into()))
}

/// The group that may read and write the device, unless it is root's.
fn device_group(path: &Path) -> Option<libc::gid_t> {
    const READ_WRITE: u32 = 0o060;
    let found = path.metadata().ok()?;
    (found.mode() & READ_WRITE == READ_WRITE && found.gid() != 0).then(|| found.gid())
}

fn copy_above(fd: RawFd, lowest: c_int) -> Result<OwnedFd, JailError> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and returns a new descriptor or -1.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) };
    if copy < 0 {
        return Err(prepare("copy a descriptor")(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

impl Bind {
    fn new(path: &Path, is_device: bool) -> Result<Option<Self>, JailError> {
        // Symbolic links such as /lib64 → usr/lib64 become the directory they name.
        let Ok(metadata) = path.metadata() else { return Ok(None) };
        let relative = path.strip_prefix("/").unwrap_or(path);
        let mut parents: Vec<PathBuf> = relative
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
            .map(Path::to_path_buf)
            .collect();
        parents.reverse();
        Ok(Some(Self {
            source: c_path(path)?,
            target: c_path(relative)?,
            parents: parents.iter().map(|parent| c_path(parent)).collect::<Result<_, _>>()?,
            is_dir: metadata.is_dir(),
            is_device,
        }))
    }
}

impl Plan {
    pub(super) fn new(spec: &JailSpec<'_>) -> Result<Self, JailError> {
        let lowest = FIRST_FD + spec.files.len() as c_int + 16;
        let visible = spec.visible.iter().map(|path| Bind::new(path, false));
        let devices = spec.devices.iter().map(|path| Bind::new(path, true));
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(prepare("open /dev/null"))?;
        Ok(Self {
            program: spec.program.clone(),
            args: spec.args.clone(),
            root: c_path(&spec.root)?,
            binds: visible
                .chain(devices)
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
            privilege: spec.privilege,
            groups: spec.devices.iter().filter_map(|path| device_group(path)).collect(),
            files: spec
                .files
                .iter()
                .map(|file| copy_above(file.as_raw_fd(), lowest))
                .collect::<Result<_, _>>()?,
            stderr: copy_above(spec.stderr.as_raw_fd(), lowest)?,
            null: copy_above(null.as_raw_fd(), lowest)?,
            max_file_bytes: spec.max_file_bytes,
            max_locked_bytes: spec.max_locked_bytes,
        })
    }
}

fn pipe(lowest: c_int) -> Result<(OwnedFd, OwnedFd), JailError> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(prepare("make a pipe")(io::Error::last_os_error()));
    }
    // SAFETY: both descriptors were just made and belong to nobody else.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    Ok((copy_above(read.as_raw_fd(), lowest)?, copy_above(write.as_raw_fd(), lowest)?))
}

/// Clones, lets the child set up its jail and execute, and reports its failure as an error.
pub(super) fn spawn(
    plan: &Plan,
    procs: &[RawFd],
    write_down: impl FnOnce(i32) -> io::Result<()>,
) -> Result<JailedProcess, JailError> {
    let lowest = FIRST_FD + plan.files.len() as c_int + 16;
    let (go_read, go_write) = pipe(lowest)?;
    let (error_read, error_write) = pipe(lowest)?;
    let argv: Vec<*const libc::c_char> = std::iter::once(plan.program.as_ptr())
        .chain(plan.args.iter().map(|arg| arg.as_ptr()))
        .chain(std::iter::once(ptr::null()))
        .collect();

    let mut pidfd: c_int = -1;
    let mut namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    if plan.privilege == Privilege::UserNamespace {
        namespaces |= libc::CLONE_NEWUSER;
    }
    // SAFETY: all-zero is a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is a fork; `args` outlives the call and the child makes only
    // plain system calls before it executes or exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    if pid < 0 {
        return Err(prepare("clone into new namespaces")(io::Error::last_os_error()));
    }
    if pid == 0 {
        // SAFETY: this is the child; `enter` never returns.
        unsafe { enter(plan, procs, &argv, go_read.as_raw_fd(), error_write.as_raw_fd()) }
    }
    let pid = pid as i32;
    // SAFETY: the kernel stored a new descriptor there, which belongs to nobody else.
    let process = JailedProcess::new(pid, unsafe { OwnedFd::from_raw_fd(pidfd) });
    drop((go_read, error_write));

    if plan.privilege == Privilege::UserNamespace {
        map_own_user(pid).map_err(prepare("map the user into its namespace"))?;
    }
    write_down(pid).map_err(prepare("write the process down"))?;
    rustix::io::write(&go_write, b"!").map_err(|e| prepare("start the child")(e.into()))?;
    drop(go_write);

    let mut report = Vec::new();
    std::fs::File::from(error_read)
        .read_to_end(&mut report)
        .map_err(prepare("read the child's report"))?;
    match report.as_slice() {
        [] => Ok(process),
        [step, errno @ ..] => {
            let step = STEPS.get(usize::from(*step)).copied().unwrap_or("unknown");
            let errno = errno.try_into().map(i32::from_ne_bytes).unwrap_or_default();
            Err(JailError::Setup { step, source: io::Error::from_raw_os_error(errno) })
        }
    }
}

fn map_own_user(pid: i32) -> io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("0 {uid} 1"))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("0 {gid} 1"))
}

/// The child: sets up the jail and executes the program, or reports the failed step and exits.
///
/// # Safety
/// Only in the child right after a fork-like clone.
unsafe fn enter(
    plan: &Plan,
    procs: &[RawFd],
    argv: &[*const libc::c_char],
    go: RawFd,
    errors: RawFd,
) -> ! {
    // SAFETY: `set_up` makes only system calls on memory prepared before the clone.
    let step = unsafe { set_up(plan, procs, argv, go) };
    // SAFETY: errno is the child's own; `report` lives on the stack during the write.
    unsafe {
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let report = [step as u8, errno[0], errno[1], errno[2], errno[3]];
        libc::write(errors, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Returns the step that failed; on success it does not return.
unsafe fn set_up(plan: &Plan, procs: &[RawFd], argv: &[*const libc::c_char], go: RawFd) -> Step {
    macro_rules! check {
        ($step:ident, $call:expr) => {
            if ($call) < 0 {
                return Step::$step;
            }
        };
    }
    const NONE: *const libc::c_char = ptr::null();
    let tight = libc::MS_NOSUID | libc::MS_NODEV;

    // SAFETY: every pointer comes from `plan` or a literal and lives until `execve`.
    unsafe {
        let mut byte = 0u8;
        if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
            return Step::Wait;
        }
        for &fd in procs {
            check!(Cgroup, libc::write(fd, c"0".as_ptr().cast(), 1));
        }

        // A host that runs out of memory shall lose a bunker, not the server or a neighbour of it.
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), flags);
        check!(OomScore, fd);
        check!(OomScore, libc::write(fd, OOM_SCORE.as_ptr().cast(), OOM_SCORE.count_bytes()));
        libc::close(fd);

        let private = libc::MS_REC | libc::MS_PRIVATE;
        check!(Private, libc::mount(NONE, c"/".as_ptr(), NONE, private, ptr::null()));
        let options = c"size=1m,mode=0755";
        check!(
            Root,
            libc::mount(
                c"jail".as_ptr(),
                plan.root.as_ptr(),
                c"tmpfs".as_ptr(),
                tight,
                options.as_ptr().cast(),
            )
        );
        check!(Root, libc::chdir(plan.root.as_ptr()));
        for bind in &plan.binds {
            for parent in &bind.parents {
                make_dir(parent);
            }
            if bind.is_dir {
                make_dir(&bind.target);
            } else {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC;
                let fd = libc::open(bind.target.as_ptr(), flags, 0o444);
                check!(MountPoint, fd);
                libc::close(fd);
            }
            let target = bind.target.as_ptr();
            check!(
                Bind,
                libc::mount(bind.source.as_ptr(), target, NONE, libc::MS_BIND, ptr::null())
            );
            // A user namespace may not clear the flags a mount had, so devices keep theirs.
            if !bind.is_device {
                let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | tight;
                check!(ReadOnly, libc::mount(NONE, target, NONE, flags, ptr::null()));
            }
        }
        // The program opens its memory through /proc/self/fd; the new pid namespace has only it.
        make_dir(c"proc");
        let flags = tight | libc::MS_NOEXEC;
        check!(
            Proc,
            libc::mount(c"proc".as_ptr(), c"proc".as_ptr(), c"proc".as_ptr(), flags, ptr::null())
        );
        // With both arguments the same directory, the old root ends up on top of the new one.
        check!(Pivot, libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()));
        check!(Pivot, libc::umount2(c".".as_ptr(), libc::MNT_DETACH));
        check!(Pivot, libc::chdir(c"/".as_ptr()));
        let read_only = libc::MS_REMOUNT | libc::MS_RDONLY | tight;
        check!(Pivot, libc::mount(NONE, c"/".as_ptr(), NONE, read_only, ptr::null()));

        for (resource, limit) in [
            (libc::RLIMIT_CORE, 0),
            (libc::RLIMIT_FSIZE, plan.max_file_bytes),
            (libc::RLIMIT_MEMLOCK, plan.max_locked_bytes),
            (libc::RLIMIT_NOFILE, MAX_OPEN_FILES),
        ] {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            check!(Limits, libc::setrlimit(resource, &raw const limit));
        }
        // An emulator asks for huge pages for its translated code and fills a part of each: with
        // small ones an idle VM takes half the memory. Failure costs memory only.
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        // Past its size limit a write shall fail with EFBIG, not end the process.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut no_signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut no_signals);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const no_signals, ptr::null_mut());
        check!(Limits, libc::setsid());

        for capability in 0..=LAST_CAPABILITY {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        if let Privilege::OwnUid(uid) = plan.privilege {
            // Not the C library's functions: those wait for the parent's other threads, which
            // the child does not have.
            let groups = &plan.groups;
            check!(Privileges, libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()));
            check!(Privileges, libc::syscall(libc::SYS_setresgid, uid, uid, uid));
            check!(Privileges, libc::syscall(libc::SYS_setresuid, uid, uid, uid));
        }
        check!(Privileges, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));

        check!(Descriptors, libc::dup2(plan.null.as_raw_fd(), 0));
        check!(Descriptors, libc::dup2(plan.null.as_raw_fd(), 1));
        check!(Descriptors, libc::dup2(plan.stderr.as_raw_fd(), 2));
        for (target, file) in (FIRST_FD..).zip(&plan.files) {
            check!(Descriptors, libc::dup2(file.as_raw_fd(), target));
        }
        let environment: [*const libc::c_char; 1] = [ptr::null()];
        libc::execve(plan.program.as_ptr(), argv.as_ptr(), environment.as_ptr());
        Step::Execute
    }
}

/// Failure shows in the mount that follows; an existing directory is fine.
fn make_dir(path: &CStr) {
    // SAFETY: `path` is a NUL-terminated string.
    unsafe { libc::mkdir(path.as_ptr(), 0o755) };
}

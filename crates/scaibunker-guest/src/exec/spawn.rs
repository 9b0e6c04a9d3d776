//! Making a process: in its cgroup from its first instruction, and without copying the agent.
//!
//! The child borrows the agent's memory, on a stack of its own, until it becomes its program;
//! the thread that made it stands still for that long. Threads are cheap and a program on a file
//! system that hangs must not make the agent deaf, so callers use a thread of their own.

use std::{
    arch::asm,
    ffi::{CStr, c_char, c_void},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
    sync::atomic::AtomicI32,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    process::{Resource, Rlimit, chdir, chroot, fchdir, ioctl_tiocsctty, setrlimit, setsid, umask},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::launch::{Cwd, Launch};

/// The child makes few, shallow calls.
const STACK_BYTES: usize = 32 * 1024;

const OPEN_FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(1 << 20) };
const NO_CORE_DUMPS: Rlimit = Rlimit { current: Some(0), maximum: Some(0) };

const SHELL: &CStr = c"/bin/sh";

/// What becomes the child's standard streams.
#[derive(Debug)]
pub struct ChildStreams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Whether they are a terminal, which then controls the child's session.
    pub is_terminal: bool,
}

/// How far a child came that did not become its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It does not exist at all: no memory, or too many processes.
    Clone(Errno),
    /// It could not take its place in the bunker.
    Setup(Errno),
    /// Its explicit working directory cannot be entered.
    Cwd(Errno),
    /// No candidate could be executed. The child has ended, with a number of its own.
    Exec(Errno),
}

/// The layout of the kernel's `clone_args`, up to the field it needs here.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// What parent and child share.
struct Shared<'a> {
    root: BorrowedFd<'a>,
    streams: &'a ChildStreams,
    launch: &'a Launch,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    argv: Vec<*const c_char>,
    /// `argv` for a script that names no interpreter: the shell, a slot for the script, the rest.
    script_argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    failure: Option<Failure>,
}

/// Starts `launch` in the directory tree of `root` and in `cgroup`. The kernel puts the child's
/// number into `pid` before the child runs.
pub fn spawn(
    launch: &Launch,
    streams: &ChildStreams,
    root: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    pid: &AtomicI32,
) -> Result<(), Failure> {
    let pointers = |strings: &[std::ffi::CString]| -> Vec<*const c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let argv = pointers(&launch.argv);
    let script_argv =
        [SHELL.as_ptr(), ptr::null()].into_iter().chain(argv.iter().skip(1).copied()).collect();
    let mut shared = Shared {
        root,
        streams,
        launch,
        uid: Uid::from_raw(launch.account.uid),
        gid: Gid::from_raw(launch.account.gid),
        groups: launch.account.groups.iter().map(|&gid| Gid::from_raw(gid)).collect(),
        argv,
        script_argv,
        env: pointers(&launch.env),
        failure: None,
    };
    let mut stack = Vec::<u128>::with_capacity(STACK_BYTES / size_of::<u128>());
    let flags = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID) as u64;
    let args = CloneArgs {
        flags: flags | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND,
        parent_tid: pid.as_ptr() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK_BYTES as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: CLONE_VFORK keeps this thread here until the child has left this memory, so all
    // that the arguments point to outlives the child's use of it, and nothing else touches it.
    let result = unsafe { clone(&args, run_child, (&raw mut shared).cast()) };
    if result < 0 {
        return Err(Failure::Clone(Errno::from_raw_os_error(-result as i32)));
    }
    shared.failure.map_or(Ok(()), Err)
}

/// Makes a child that runs `entry(shared)`; the kernel's answer in the parent.
///
/// # Safety
///
/// `args` must describe a stack for the child alone, and must stop this thread while the child
/// uses its memory. `entry` must be sound to call with `shared` in the child.
unsafe fn clone(
    args: &CloneArgs,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    shared: *mut c_void,
) -> isize {
    let result: isize;
    // SAFETY: the child starts behind the `syscall` with an empty, aligned stack and never leaves
    // `entry`. The registers that carry its arguments survive a system call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") shared,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The child's whole life before its program. Nothing here may allocate, lock or panic.
///
/// # Safety
///
/// `shared` must point to a live [`Shared`] that nobody else uses.
unsafe extern "C" fn run_child(shared: *mut c_void) -> ! {
    // SAFETY: by the contract above.
    let shared = unsafe { &mut *shared.cast::<Shared<'_>>() };
    let failure = match enter_bunker(shared) {
        Ok(()) => execute(shared),
        Err(failure) => failure,
    };
    shared.failure = Some(failure);
    // SAFETY: ends the process without running anything of the agent's.
    unsafe {
        libc::syscall(libc::SYS_exit_group, 127);
    }
    loop {
        std::hint::spin_loop();
    }
}

fn enter_bunker(shared: &Shared<'_>) -> Result<(), Failure> {
    take_place(shared).map_err(Failure::Setup)?;
    match &shared.launch.cwd {
        Cwd::Explicit(dir) => chdir(dir.as_c_str()).map_err(Failure::Cwd),
        Cwd::FirstOf(dirs) => {
            let is_there = dirs.iter().any(|dir| chdir(dir.as_c_str()).is_ok());
            if is_there { Ok(()) } else { chdir(c"/").map_err(Failure::Setup) }
        }
    }
}

fn take_place(shared: &Shared<'_>) -> Result<(), Errno> {
    setsid()?;
    if shared.streams.is_terminal {
        ioctl_tiocsctty(&shared.streams.stdin)?;
    }
    // The agent's own exemption would be inherited.
    let score = openat(CWD, c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty())?;
    rustix::io::write(&score, b"0")?;
    drop(score);
    setrlimit(Resource::Nofile, OPEN_FILES)?;
    setrlimit(Resource::Core, NO_CORE_DUMPS)?;
    umask(Mode::from_raw_mode(0o022));
    dup2_stdin(&shared.streams.stdin)?;
    dup2_stdout(&shared.streams.stdout)?;
    dup2_stderr(&shared.streams.stderr)?;
    fchdir(shared.root)?;
    chroot(c".")?;
    set_thread_groups(&shared.groups)?;
    set_thread_res_gid(shared.gid, shared.gid, shared.gid)?;
    set_thread_res_uid(shared.uid, shared.uid, shared.uid)?;
    let none = 0u64;
    // SAFETY: reads an empty signal set of the kernel's size; the child's own mask changes.
    unsafe {
        let (set, size) = (&raw const none, size_of::<u64>());
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, 0usize, size);
    }
    Ok(())
}

/// Tries the candidates as `execvp` would; returns only when none could be executed.
fn execute(shared: &mut Shared<'_>) -> Failure {
    let mut result = Errno::NOENT;
    for candidate in &shared.launch.candidates {
        // SAFETY: both arrays end in a null pointer, and their strings live in the launch.
        match unsafe { exec(candidate, &shared.argv, &shared.env) } {
            Errno::NOEXEC => {
                shared.script_argv[1] = candidate.as_ptr();
                // SAFETY: as above.
                return Failure::Exec(unsafe { exec(SHELL, &shared.script_argv, &shared.env) });
            }
            Errno::ACCESS => result = Errno::ACCESS,
            Errno::NOENT | Errno::NOTDIR => {}
            error => return Failure::Exec(error),
        }
    }
    Failure::Exec(result)
}

/// # Safety
///
/// Both arrays must end in a null pointer, and every other pointer must be to a C string.
unsafe fn exec(path: &CStr, argv: &[*const c_char], env: &[*const c_char]) -> Errno {
    // SAFETY: by the contract above.
    unsafe {
        libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr());
        Errno::from_raw_os_error(*libc::__errno_location())
    }
}

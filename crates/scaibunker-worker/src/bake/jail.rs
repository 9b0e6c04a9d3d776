//! The helper walls itself in before it looks at a layer.
//!
//! It runs this program's own code up to here, so it needs no preparation between fork and exec.
//! Where the server is root, the mounts are made by root and only then the user namespace: nobody
//! inside may change them. An ordinary user needs the user namespace to make them at all.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Gid, Mode, Uid, mkdirat},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, unmount,
    },
    process::{
        Resource, Rlimit, Signal, chdir, geteuid, pivot_root, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
    thread::{
        UnshareFlags, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
        unshare_unsafe,
    },
};

use super::{
    job::{Fault, MAPPED},
    limits::PROCESS_MEMORY_BYTES,
};

/// Where the work directory is inside.
pub const WORK: &str = "/work";

/// What the programs of e2fsprogs need.
const SYSTEM: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];

/// A tree as deep as is allowed is walked with one descriptor for each level.
const MAX_OPEN_FILES: u64 = 1024;

fn failed<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Fault {
    move |error| Fault::io(what, &error.into())
}

/// Puts this process into its jail; `unshared` tells the parent to map its ids. The next child is
/// the first process of the pid namespace.
pub fn enter(
    work_dir: &Path,
    max_file_bytes: u64,
    unshared: impl FnOnce() -> io::Result<()>,
) -> Result<(), Fault> {
    die_with_parent()?;
    if geteuid().is_root() {
        unshare_all_but_users()?;
        change_root(work_dir)?;
        unshare_users(unshared)?;
    } else {
        unshare_users(unshared)?;
        unshare_all_but_users()?;
        change_root(work_dir)?;
    }
    // The signal is forgotten when ids change.
    die_with_parent()?;
    set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    // A core file or a debugger of another bake's helper, which has the same ids, sees nothing.
    set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(failed("become undumpable"))?;
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Data, PROCESS_MEMORY_BYTES),
        (Resource::Fsize, max_file_bytes),
        (Resource::Nofile, MAX_OPEN_FILES),
    ] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .map_err(failed("set limits"))?;
    }
    Ok(())
}

/// Also of the first process in the pid namespace, with which all others in it end.
pub fn die_with_parent() -> Result<(), Fault> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("tie itself to its parent"))
}

fn unshare_all_but_users() -> Result<(), Fault> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    // SAFETY: no descriptors are unshared, and this process has a single thread.
    unsafe { unshare_unsafe(flags) }.map_err(failed("enter namespaces of its own"))
}

fn unshare_users(unshared: impl FnOnce() -> io::Result<()>) -> Result<(), Fault> {
    // SAFETY: no descriptors are unshared, and this process has a single thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(failed("enter a user namespace"))?;
    unshared().map_err(failed("report"))?;
    let mut answer = [0];
    io::stdin().read_exact(&mut answer).map_err(failed("hear from its parent"))?;
    if answer != [MAPPED] {
        return Err(Fault::internal("the ids were not mapped"));
    }
    // Not the C library's functions, which would speak to other threads.
    set_thread_groups(&[]).map_err(failed("leave its groups"))?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(failed("change its group"))?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(failed("change its user"))
}

fn change_root(work_dir: &Path) -> Result<(), Fault> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(failed("make mounts private"))?;
    let root = work_dir.join("root");
    // It is there already when a work directory is cleared.
    fs::create_dir_all(&root).map_err(failed("make a directory for its root"))?;
    let tight = MountFlags::NOSUID | MountFlags::NODEV;
    let options = CString::new("size=64k,mode=0755").map_err(failed("mount its root"))?;
    mount("bake", &root, "tmpfs", tight, options.as_c_str()).map_err(failed("mount its root"))?;
    for path in SYSTEM {
        show(Path::new(path), &root)?;
    }
    fs::create_dir(root.join("dev")).map_err(failed("make /dev"))?;
    let null = root.join("dev/null");
    File::create(&null).map_err(failed("make /dev/null"))?;
    mount_bind_recursive("/dev/null", &null).map_err(failed("show /dev/null"))?;
    // e2fsprogs does not touch a file before it has looked whether that is mounted.
    fs::create_dir(root.join("etc")).map_err(failed("make /etc"))?;
    File::create(root.join("etc/mtab")).map_err(failed("make /etc/mtab"))?;
    let work = root.join(&WORK[1..]);
    mkdirat(CWD, &work, Mode::RWXU).map_err(failed("make its work directory"))?;
    // Alone, without the new root that is mounted in it.
    mount_bind(work_dir, &work).map_err(failed("show its work directory"))?;
    restrict(&work, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC)?;
    chdir(&root).map_err(failed("enter its root"))?;
    // With both arguments the same directory, the old root ends up on top of the new one.
    pivot_root(".", ".").map_err(failed("change its root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old root"))?;
    chdir("/").map_err(failed("enter its root"))?;
    restrict_one(Path::new("/"), libc::MOUNT_ATTR_RDONLY)
}

/// Shows a directory of the system read-only, or repeats a link such as /lib → usr/lib.
fn show(path: &Path, root: &Path) -> Result<(), Fault> {
    let inside: PathBuf = root.join(path.strip_prefix("/").unwrap_or(path));
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(failed("read a link of the system"))?;
        return symlink(target, inside).map_err(failed("repeat a link of the system"));
    }
    fs::create_dir(&inside).map_err(failed("make a mount point"))?;
    mount_bind_recursive(path, &inside).map_err(failed("show a directory of the system"))?;
    let flags = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    restrict(&inside, flags)
}

fn restrict(path: &Path, flags: u64) -> Result<(), Fault> {
    set_attributes(path, flags, libc::AT_RECURSIVE)
}

fn restrict_one(path: &Path, flags: u64) -> Result<(), Fault> {
    set_attributes(path, flags, 0)
}

/// Only adds flags: a user namespace may not take away those that a mount has.
fn set_attributes(path: &Path, flags: u64, how: i32) -> Result<(), Fault> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(failed("restrict a mount"))?;
    let attributes =
        libc::mount_attr { attr_set: flags, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: `path` is NUL-terminated, and the size is that of `attributes`; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            how,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(failed("restrict a mount")(io::Error::last_os_error())),
    }
}

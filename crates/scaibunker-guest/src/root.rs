//! The bunker's root: the image below, the bunker's own disk above it.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags, fchmod, fstat, mkdirat, openat},
    io::Errno,
    mount::{MountFlags, mount, mount_move},
};
use scaibunker_guest_protocol::{BASE_DISK_SERIAL, SCRATCH_DISK_SERIAL};

use crate::{boot::find_disk, check, error::AgentError, root_files};

/// `_IO(0x12, 97)` of the kernel's `fs.h`.
const BLKFLSBUF: libc::Ioctl = 0x1261;

/// No initialisation in the background: it would write to an idle bunker's disk, and every
/// block it wrote would count as used on the host.
const SCRATCH_OPTIONS: &str = "noinit_itable,no_prefetch_block_bitmaps,errors=remount-ro";

/// `redirect_dir`: directories of the image can be renamed. `metacopy`: a change of owner or
/// mode does not copy the file. `xino`: one device number and stable inode numbers, which tools
/// that compare files rely on.
const OVERLAY_OPTIONS: &str = "lowerdir=/base,upperdir=/scratch/upper,workdir=/scratch/work,\
    redirect_dir=on,metacopy=on,xino=auto";

/// One mount of the bunker's root.
struct Mount {
    path: &'static str,
    kind: &'static str,
    options: &'static str,
    flags: MountFlags,
}

const fn pseudo(path: &'static str, kind: &'static str) -> Mount {
    let flags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
    Mount { path, kind, options: "", flags }
}

/// In mounting order. The kernel's device nodes give the raw disks to root alone, whose VM it is.
const MOUNTS: [Mount; 8] = [
    pseudo("proc", "proc"),
    pseudo("sys", "sysfs"),
    pseudo("sys/fs/cgroup", "cgroup2"),
    Mount { path: "dev", kind: "devtmpfs", options: "mode=755", flags: MountFlags::NOSUID },
    Mount {
        path: "dev/pts",
        kind: "devpts",
        options: "gid=5,mode=620,ptmxmode=666",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
    },
    Mount {
        path: "dev/shm",
        kind: "tmpfs",
        options: "mode=1777",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
    },
    pseudo("dev/mqueue", "mqueue"),
    Mount {
        path: "run",
        kind: "tmpfs",
        options: "mode=755,size=20%",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
    },
];

/// A mounted root.
#[derive(Debug)]
pub struct BunkerRoot {
    dir: OwnedFd,
    disk: OwnedFd,
}

impl BunkerRoot {
    /// Mounts everything, and puts the result where the kernel takes it for the root: user
    /// namespaces are refused to processes in a mere chroot.
    pub fn mount() -> Result<Self, AgentError> {
        let (base, scratch) = (find_disk(BASE_DISK_SERIAL)?, find_disk(SCRATCH_DISK_SERIAL)?);
        for dir in ["/base", "/scratch", "/bunker"] {
            fs::create_dir(dir).map_err(AgentError::io(format!("make {dir}")))?;
        }
        forget_cached_blocks(&scratch)?;
        attach(&base, "/base", "ext4", MountFlags::RDONLY, "")?;
        attach(&scratch, "/scratch", "ext4", MountFlags::NOATIME, SCRATCH_OPTIONS)?;
        for dir in ["/scratch/upper", "/scratch/work"] {
            fs::create_dir_all(dir).map_err(AgentError::io(format!("make {dir}")))?;
        }
        attach("overlay", "/bunker", "overlay", MountFlags::NOATIME, OVERLAY_OPTIONS)?;
        let open = |path: &str, flags| {
            openat(CWD, path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(AgentError::io(format!("open {path}")))
        };
        let root =
            Self { dir: open("/bunker", OFlags::PATH)?, disk: open("/scratch", OFlags::RDONLY)? };
        for mount in &MOUNTS {
            let point = root.directory(mount.path)?;
            let target = format!("/proc/self/fd/{}", point.as_raw_fd());
            attach(mount.kind, &target, mount.kind, mount.flags, mount.options)?;
        }
        root.make_shared_directory("tmp")?;
        root.make_shared_directory("run/lock")?;
        root.directory("etc")?;
        mount_move("/bunker", "/").map_err(AgentError::io("move the root into place"))?;
        Ok(root)
    }

    /// A directory in the bunker's place.
    #[cfg(test)]
    pub fn at(dir: &std::path::Path) -> Self {
        let open = || fs::File::open(dir).unwrap().into();
        Self { dir: open(), disk: open() }
    }

    /// The root of the file system on the bunker's own disk.
    pub fn disk(&self) -> &OwnedFd {
        &self.disk
    }

    /// The root directory.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Opens a directory of the image, or makes it. A link is refused: the image must not choose
    /// what is mounted over.
    fn directory(&self, path: &str) -> Result<OwnedFd, AgentError> {
        let failed = || AgentError::io(format!("use /{path} of the image as a directory"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match root_files::open(&self.dir, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(&self.dir, path, Mode::from_raw_mode(0o755)).map_err(failed())?;
                root_files::open(&self.dir, path, flags, Mode::empty()).map_err(failed())
            }
            opened => opened.map_err(failed()),
        }
    }

    /// A directory in which everybody may make files and remove their own.
    fn make_shared_directory(&self, path: &str) -> Result<(), AgentError> {
        const SHARED: u32 = 0o1777;
        let failed = || AgentError::io(format!("open /{path} to everybody"));
        let dir = self.directory(path)?;
        if fstat(&dir).map_err(failed())?.st_mode & 0o7777 != SHARED {
            fchmod(&dir, Mode::from_raw_mode(SHARED)).map_err(failed())?;
        }
        Ok(())
    }
}

/// The kernel has read the disk's first blocks when it found it. The host may have put another file
/// system there since.
fn forget_cached_blocks(device: &str) -> Result<(), AgentError> {
    let failed = || AgentError::io(format!("forget the blocks of {device}"));
    let device = fs::File::open(device).map_err(failed())?;
    // SAFETY: the request has no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF) }).map(drop).map_err(failed())
}

fn attach(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), AgentError> {
    let options = std::ffi::CString::new(options).map_err(AgentError::io("build options"))?;
    mount(source, target, kind, flags, options.as_c_str())
        .map_err(AgentError::io(format!("mount {source} ({kind})")))
}

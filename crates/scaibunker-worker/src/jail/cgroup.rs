//! Control groups of jailed processes, on version 2 or version 1.
//!
//! Version 2 is used where its hierarchy offers the controllers; else each version 1 hierarchy
//! gets a group of the same name. Layout: `<hierarchy>/scaibunker/<vm id>`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::JailError;

const GROUP: &str = "scaibunker";
const CPU_PERIOD_US: u64 = 100_000;
const V1_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Hard bounds of one jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Thousandths of a core.
    pub cpu_millicores: u32,
    pub cpu_priority: CpuPriority,
    pub memory_bytes: u64,
    /// Processes and threads.
    pub max_tasks: u32,
}

/// Who comes first when the host's cores are all busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuPriority {
    /// A bunker, or a VM that a caller waits for.
    Normal,
    /// A VM made in advance.
    Background,
}

impl CpuPriority {
    /// A version 1 `cpu.shares` value, of which 1024 is the default.
    fn shares(self) -> u32 {
        match self {
            Self::Normal => 1024,
            Self::Background => 32,
        }
    }

    /// A version 2 `cpu.weight` value, of which 100 is the default.
    fn weight(self) -> u32 {
        match self {
            Self::Normal => 100,
            Self::Background => 3,
        }
    }
}

/// Where the groups of this host go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupRoot {
    V2(PathBuf),
    V1(Vec<(&'static str, PathBuf)>),
}

/// One jail's group; dropping it removes it. Its processes must have ended.
#[derive(Debug)]
pub struct Cgroup {
    root: CgroupRoot,
    dirs: Vec<PathBuf>,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JailError {
    let path = path.display().to_string();
    move |source| JailError::Cgroup { what, path, source }
}

fn write(path: PathBuf, value: impl ToString) -> Result<(), JailError> {
    fs::write(&path, value.to_string()).map_err(failed("write", &path))
}

impl CgroupRoot {
    /// Finds a usable hierarchy under `mount` (normally `/sys/fs/cgroup`) and makes the parent
    /// group in it. `None` when there is none that this user may write.
    #[must_use]
    pub fn detect(mount: &Path) -> Option<Self> {
        Self::detect_v2(mount).or_else(|| Self::detect_v1(mount))
    }

    fn detect_v2(mount: &Path) -> Option<Self> {
        let offered = fs::read_to_string(mount.join("cgroup.controllers")).ok()?;
        let has = |name: &str| offered.split_whitespace().any(|offer| offer == name);
        if !V1_CONTROLLERS.iter().all(|name| has(name)) {
            return None;
        }
        let group = mount.join(GROUP);
        for parent in [mount, group.as_path()] {
            fs::create_dir_all(parent).ok()?;
            fs::write(parent.join("cgroup.subtree_control"), "+cpu +memory +pids").ok()?;
        }
        Some(Self::V2(group))
    }

    fn detect_v1(mount: &Path) -> Option<Self> {
        let groups = V1_CONTROLLERS.map(|name| (name, mount.join(name).join(GROUP)));
        for (_, group) in &groups {
            if !group.parent()?.join("tasks").exists() {
                return None;
            }
            fs::create_dir_all(group).ok()?;
            // Another user's server may have made it.
            rustix::fs::access(group, rustix::fs::Access::WRITE_OK).ok()?;
        }
        // Kernels that still have the switch refuse it where it is on already.
        let _ = fs::write(mount.join("memory").join(GROUP).join("memory.use_hierarchy"), "1");
        Some(Self::V1(groups.into()))
    }

    /// Bounds what all groups together use, so that promising more memory than there is costs
    /// the bunkers and never the host.
    pub fn limit_memory(&self, memory_bytes: u64) -> Result<(), JailError> {
        match self {
            Self::V2(group) => write(group.join("memory.max"), memory_bytes),
            Self::V1(groups) => {
                groups.iter().filter(|(controller, _)| *controller == "memory").try_for_each(
                    |(_, group)| write(group.join("memory.limit_in_bytes"), memory_bytes),
                )
            }
        }
    }

    fn dirs(&self, name: &str) -> Vec<PathBuf> {
        match self {
            Self::V2(group) => vec![group.join(name)],
            Self::V1(groups) => groups.iter().map(|(_, group)| group.join(name)).collect(),
        }
    }
}

impl Cgroup {
    /// Makes the group, empty and without limits.
    pub fn create(root: &CgroupRoot, name: &str) -> Result<Self, JailError> {
        let cgroup = Self::open(root, name);
        for dir in &cgroup.dirs {
            fs::create_dir_all(dir).map_err(failed("make", dir))?;
        }
        Ok(cgroup)
    }

    /// The handle of a group that an earlier server made.
    #[must_use]
    pub fn open(root: &CgroupRoot, name: &str) -> Self {
        Self { root: root.clone(), dirs: root.dirs(name) }
    }

    /// Sets the bounds; may be called again while processes run.
    pub fn limit(&self, limits: CgroupLimits) -> Result<(), JailError> {
        let quota_us = u64::from(limits.cpu_millicores) * CPU_PERIOD_US / 1000;
        match (&self.root, self.dirs.as_slice()) {
            (CgroupRoot::V2(_), [dir]) => {
                write(dir.join("cpu.max"), format!("{quota_us} {CPU_PERIOD_US}"))?;
                write(dir.join("cpu.weight"), limits.cpu_priority.weight())?;
                write(dir.join("memory.max"), limits.memory_bytes)?;
                write(dir.join("memory.swap.max"), 0)?;
                write(dir.join("memory.oom.group"), 1)?;
                write(dir.join("pids.max"), limits.max_tasks)
            }
            (CgroupRoot::V1(_), [cpu, memory, pids]) => {
                write(cpu.join("cpu.cfs_period_us"), CPU_PERIOD_US)?;
                write(cpu.join("cpu.cfs_quota_us"), quota_us)?;
                write(cpu.join("cpu.shares"), limits.cpu_priority.shares())?;
                write(memory.join("memory.limit_in_bytes"), limits.memory_bytes)?;
                write(pids.join("pids.max"), limits.max_tasks)
            }
            _ => Ok(()),
        }
    }

    /// Descriptors into which a process writes `0` to enter the group.
    pub fn procs_files(&self) -> Result<Vec<File>, JailError> {
        let open = |dir: &PathBuf| {
            let path = dir.join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))
        };
        self.dirs.iter().map(open).collect()
    }

    /// Whether the kernel killed a process of the group for want of memory.
    #[must_use]
    pub fn was_oom_killed(&self) -> bool {
        let file = match self.root {
            CgroupRoot::V2(_) => "memory.events",
            CgroupRoot::V1(_) => "memory.oom_control",
        };
        self.dirs.iter().any(|dir| {
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            text.lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count.trim() != "0")
        })
    }

    /// Leaves the group in place, for the next server.
    pub fn leave(mut self) {
        self.dirs.clear();
    }
}

impl Drop for Cgroup {
    /// A group stays busy for a moment after its last process has ended.
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        for dir in &self.dirs {
            while let Err(error) = fs::remove_dir(dir) {
                if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                    if error.kind() != io::ErrorKind::NotFound {
                        tracing::warn!(cgroup.path = %dir.display(), %error, "cannot remove a cgroup");
                    }
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_gets_its_own_file_names() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
        let root = CgroupRoot::detect(mount.path()).unwrap();
        let cgroup = Cgroup::create(&root, "vm_1").unwrap();
        let limits = CgroupLimits {
            cpu_millicores: 500,
            cpu_priority: CpuPriority::Background,
            memory_bytes: 1 << 28,
            max_tasks: 128,
        };
        cgroup.limit(limits).unwrap();
        let dir = mount.path().join("scaibunker/vm_1");
        assert_eq!(fs::read_to_string(dir.join("cpu.max")).unwrap(), "50000 100000");
        assert_eq!(fs::read_to_string(dir.join("cpu.weight")).unwrap(), "3");
        assert_eq!(fs::read_to_string(dir.join("memory.max")).unwrap(), "268435456");
    }

    #[test]
    fn a_hierarchy_without_the_controllers_is_not_used() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "hugetlb").unwrap();
        assert_eq!(CgroupRoot::detect(mount.path()), None);
    }
}

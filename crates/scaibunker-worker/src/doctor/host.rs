//! The machine itself: kernel, processors, memory, room on disks.

use std::{fs, path::Path};

use super::{Finding, Level};

const MIB: u64 = 1 << 20;

/// Below this, a few bunkers fill the disk; an image alone takes 300 MiB, and as much again while
/// it is baked.
const COMFORTABLE_SPACE_MIB: u64 = 4096;
const LEAST_SPACE_MIB: u64 = 512;

const COMFORTABLE_MEMORY_MIB: u64 = 2048;

pub fn kernel() -> Finding {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    Finding::new("host_kernel", Level::Ok, format!("Linux {release}"))
}

pub fn cores_and_memory() -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut findings = vec![Finding::new("cores", Level::Ok, format!("{cores} usable"))];
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    findings.extend(available_mib(&meminfo).map(memory));
    findings
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn memory(available_mib: u64) -> Finding {
    let message = format!("{available_mib} MiB available");
    if available_mib >= COMFORTABLE_MEMORY_MIB {
        return Finding::new("memory", Level::Ok, message);
    }
    Finding::new("memory", Level::Warn, message)
        .remedy("free memory, or keep bunkers few and small")
}

/// The room below a directory that may not exist yet.
pub fn space(check: &str, dir: &Path) -> Finding {
    let existing = dir.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(found) => room(check, dir, found.f_bavail.saturating_mul(found.f_frsize) / MIB),
        Err(error) => {
            let message = format!("cannot tell the room in {}: {error}", existing.display());
            Finding::new(check, Level::Warn, message)
        }
    }
}

fn room(check: &str, dir: &Path, free_mib: u64) -> Finding {
    let level = match free_mib {
        COMFORTABLE_SPACE_MIB.. => Level::Ok,
        LEAST_SPACE_MIB.. => Level::Warn,
        _ => Level::Fail,
    };
    let finding = Finding::new(check, level, format!("{free_mib} MiB free for {}", dir.display()));
    match level {
        Level::Ok => finding,
        _ => finding.remedy("free some, or choose a directory on another file system"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:  2048000 kB\nMemFree: 1 kB\nMemAvailable:    1048576 kB\n";
        assert_eq!(available_mib(meminfo), Some(1024));
        assert_eq!(available_mib("MemTotal: 1 kB"), None);
        assert_eq!((memory(1024).level, memory(2048).level), (Level::Warn, Level::Ok));
    }

    #[test]
    fn little_room_warns_and_none_fails() {
        let level = |free_mib| room("data_space", Path::new("/data"), free_mib).level;
        assert_eq!([level(9000), level(4095), level(511)], [Level::Ok, Level::Warn, Level::Fail]);
    }

    #[test]
    fn the_room_of_a_directory_to_come_is_that_of_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let finding = space("data_space", &dir.path().join("not/yet/there"));
        assert!(finding.message.contains("MiB free"), "{}", finding.message);
    }
}

//! What a VMM process uses of its host, as the kernel tells it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::vm_home::ProcessMark;

/// Unit of a file's allocated blocks, see inode(7).
const BLOCK_BYTES: u64 = 512;

/// The fields of `/proc/<pid>/stat` that are of use here, see proc(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// It has ended and waits for its parent to learn of it.
    pub has_ended: bool,
    /// When it started, in clock ticks since the host booted.
    pub start_ticks: u64,
    /// CPU time of all its threads, in clock ticks.
    pub cpu_ticks: u64,
}

impl ProcessStat {
    /// Of the process that has this pid now.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The second field is the program's name in parentheses and may hold anything; the third is
    /// the state, the 14th and 15th the time in user and in kernel code, the 22nd the start.
    fn parse(stat: &str) -> Option<Self> {
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut fields = after_name.split_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let user_ticks: u64 = fields.nth(10)?.parse().ok()?;
        let kernel_ticks: u64 = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(6)?.parse().ok()?;
        Some(Self { has_ended, start_ticks, cpu_ticks: user_ticks.saturating_add(kernel_ticks) })
    }
}

/// One VM's process and disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vitals {
    pub process: ProcessMark,
    pub scratch_path: PathBuf,
}

impl Vitals {
    /// CPU time of the process so far.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let ticks = self.process.stat()?.cpu_ticks;
        let ticks_a_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Duration::from_millis(ticks.saturating_mul(1000) / ticks_a_second))
    }

    /// Bytes of memory that only this process has. Its anonymous pages are just these: copies of
    /// the template's pages that the guest has written to, and what the VMM made for itself. A
    /// page of the template that no sibling has mapped is not among them, though the kernel calls
    /// it private as well.
    pub fn memory_bytes(&self) -> io::Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.pid))?;
        // The pid may have gone to another process meanwhile.
        self.process.stat()?;
        anonymous_bytes(&rollup).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Bytes of the host's disk that the scratch disk takes.
    pub fn disk_bytes(&self) -> io::Result<u64> {
        allocated_bytes(&self.scratch_path)
    }
}

fn anonymous_bytes(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn allocated_bytes(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "7 (a) R 1) (b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 4 0 9988 1 2";
        let expected = ProcessStat { has_ended: false, start_ticks: 9988, cpu_ticks: 42 };
        assert_eq!(ProcessStat::parse(stat), Some(expected));
        let ended = stat.replace(" S ", " Z ");
        assert!(ProcessStat::parse(&ended).is_some_and(|stat| stat.has_ended));
        assert_eq!(ProcessStat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_process_has_cpu_time_and_memory_and_a_file_has_blocks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        let process = ProcessMark::of(std::process::id() as i32).unwrap();
        let vitals = Vitals { process, scratch_path: file.path().to_path_buf() };
        assert!(vitals.cpu_time().unwrap() < Duration::from_secs(3600));
        assert!(vitals.memory_bytes().unwrap() > 4096);
        assert!(vitals.disk_bytes().unwrap() < 1 << 20);
        fs::write(file.path(), vec![1; 1 << 20]).unwrap();
        assert!(vitals.disk_bytes().unwrap() >= 1 << 20);
    }

    #[test]
    fn another_process_of_the_same_pid_is_not_measured() {
        let own = ProcessMark::of(std::process::id() as i32).unwrap();
        let process = ProcessMark { start_ticks: own.start_ticks + 1, ..own };
        let vitals = Vitals { process, scratch_path: PathBuf::new() };
        assert!(vitals.cpu_time().is_err() && vitals.memory_bytes().is_err());
    }

    #[test]
    fn only_what_is_the_processes_own_counts() {
        let rollup = "Private_Clean: 900 kB\nAnonymous:           112 kB\nKSM: 0 kB\n";
        assert_eq!(anonymous_bytes(rollup), Some(112 * 1024));
        assert_eq!(anonymous_bytes("Anonymous: many kB"), None);
    }
}

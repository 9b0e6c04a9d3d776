//! Cgroups: one for the bunker, with what the agent and the kernel need kept out of its reach,
//! and one for each command in it.

use std::{fs, io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat},
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use tokio::{io::Interest, time::timeout};

use crate::{error::AgentError, watch};

const ROOT: &str = "/sys/fs/cgroup";

/// Memory that commands cannot have: for the agent, its buffers and the kernel's own.
const MIN_RESERVE_BYTES: u64 = 16 << 20;
const RESERVE_PERCENT: u64 = 6;

/// Tasks of a bunker, and of one command: a fork bomb fails in itself before it fails others.
const BUNKER_MAX_TASKS: &str = "4096";
const COMMAND_MAX_TASKS: &str = "1024";

/// Share of a processor for all commands together when the agent wants it too, where the agent
/// counts 100: it stays responsive while they are busy.
const BUNKER_CPU_WEIGHT: &str = "25";

/// A process that waits in the kernel for something slow runs no code of its own meanwhile.
const FREEZE_LIMIT: Duration = Duration::from_millis(200);

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The cgroup around all commands; clones share it.
#[derive(Debug, Clone)]
pub struct BunkerCgroup {
    dir: Arc<OwnedFd>,
}

/// One command's cgroup.
#[derive(Debug)]
pub struct CommandCgroup {
    bunker: BunkerCgroup,
    name: String,
    dir: OwnedFd,
    is_removed: bool,
}

/// What commands get of `total` bytes of memory.
fn memory_limit(total: u64) -> u64 {
    total.saturating_sub(MIN_RESERVE_BYTES.max(total * RESERVE_PERCENT / 100))
}

impl BunkerCgroup {
    /// Makes the bunker's cgroup in a fresh hierarchy.
    pub fn create() -> Result<Self, AgentError> {
        let info = rustix::system::sysinfo();
        let memory_bytes = memory_limit(u64::from(info.mem_unit) * info.totalram);
        let bunker = Path::new(ROOT).join("bunker");
        const FAILED: &str = "set up the bunker's cgroup";
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+memory +pids +cpu")
            .map_err(AgentError::io(FAILED))?;
        fs::create_dir(&bunker).map_err(AgentError::io(FAILED))?;
        for (file, value) in [
            ("memory.max", memory_bytes.to_string().as_str()),
            ("pids.max", BUNKER_MAX_TASKS),
            ("cpu.weight", BUNKER_CPU_WEIGHT),
            ("cgroup.subtree_control", "+memory +pids +cpu"),
        ] {
            fs::write(bunker.join(file), value).map_err(AgentError::io(FAILED))?;
        }
        let dir = openat(CWD, &bunker, DIRECTORY, Mode::empty()).map_err(AgentError::io(FAILED))?;
        Ok(Self { dir: Arc::new(dir) })
    }

    /// Makes a cgroup for one command. `name` must be a plain file name.
    pub fn command(&self, name: &str) -> Result<CommandCgroup, AgentError> {
        const FAILED: &str = "make the command's cgroup";
        match mkdirat(&self.dir, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {
                return Err(AgentError::Conflict(format!("`{name}` is still running")));
            }
            made => made.map_err(AgentError::io(FAILED))?,
        }
        let dir =
            openat(&self.dir, name, DIRECTORY, Mode::empty()).map_err(AgentError::io(FAILED))?;
        let cgroup =
            CommandCgroup { bunker: self.clone(), name: name.to_owned(), dir, is_removed: false };
        cgroup.write("pids.max", COMMAND_MAX_TASKS).map_err(AgentError::io(FAILED))?;
        Ok(cgroup)
    }

    /// Has every process of every command stand still.
    pub async fn freeze(&self) -> io::Result<()> {
        let events = watch(open(&self.dir, "cgroup.events")?, Interest::PRIORITY)?;
        write(&self.dir, "cgroup.freeze", "1")?;
        let frozen = async {
            while counter(&read_small(events.get_ref())?, "frozen") == 0 {
                events.ready(Interest::PRIORITY).await?.clear_ready();
            }
            Ok(())
        };
        timeout(FREEZE_LIMIT, frozen).await.unwrap_or(Ok(()))
    }

    /// Lets them go on.
    pub fn thaw(&self) -> io::Result<()> {
        write(&self.dir, "cgroup.freeze", "0")
    }
}

impl CommandCgroup {
    /// The directory, for starting a process in it.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        write(&self.dir, file, value)
    }

    fn open(&self, file: &str) -> io::Result<OwnedFd> {
        open(&self.dir, file)
    }

    /// Sends a signal to every process. A process made meanwhile may be missed.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let list = io::read_to_string(fs::File::from(self.open("cgroup.procs")?))?;
        for pid in list.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            // One that has ended meanwhile needs no signal.
            let _ = kill_process(pid, signal);
        }
        Ok(())
    }

    /// Kills every process, those being made included.
    pub fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Whether the kernel killed a process for want of memory.
    pub fn was_oom_killed(&self) -> io::Result<bool> {
        let events = read_small(&self.open("memory.events")?)?;
        Ok(counter(&events, "oom_kill") > 0)
    }

    /// Waits until the last process has ended.
    pub async fn emptied(&self) -> io::Result<()> {
        let events = watch(self.open("cgroup.events")?, Interest::PRIORITY)?;
        while counter(&read_small(events.get_ref())?, "populated") > 0 {
            events.ready(Interest::PRIORITY).await?.clear_ready();
        }
        Ok(())
    }

    /// Waits until the last process has ended, and removes the cgroup. One in which a command
    /// has made cgroups of its own stays.
    pub async fn remove_when_empty(mut self) -> io::Result<()> {
        if !self.remove()? {
            self.emptied().await?;
            self.remove()?;
        }
        Ok(())
    }

    /// Removes the cgroup unless a process is left in it.
    fn remove(&mut self) -> io::Result<bool> {
        match unlinkat(&*self.bunker.dir, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => self.is_removed = true,
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.is_removed)
    }
}

impl Drop for CommandCgroup {
    /// For a command that no process was made for: others are waited for first.
    fn drop(&mut self) {
        if !self.is_removed {
            let _ = self.remove();
        }
    }
}

fn write(dir: &OwnedFd, file: &str, value: &str) -> io::Result<()> {
    let fd = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(fd, value.as_bytes())?;
    Ok(())
}

fn open(dir: &OwnedFd, file: &str) -> io::Result<OwnedFd> {
    Ok(openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn read_small(file: &OwnedFd) -> io::Result<String> {
    let mut text = [0; 512];
    let count = rustix::io::pread(file, &mut text[..], 0)?;
    Ok(String::from_utf8_lossy(&text[..count]).into_owned())
}

/// The value of `key` in lines of `key value`; 0 where it is missing.
fn counter(text: &str, key: &str) -> u64 {
    let values = text.lines().filter_map(|line| line.split_once(' '));
    values.filter(|(k, _)| *k == key).find_map(|(_, v)| v.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let text = "low 0\noom 4\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(counter(text, "oom_kill"), 2);
        assert_eq!(counter(text, "oom"), 4);
        assert_eq!(counter(text, "kill"), 0);
    }

    #[test]
    fn the_agent_keeps_a_part_of_the_memory() {
        assert_eq!(memory_limit(64 << 20), 48 << 20);
        assert_eq!(memory_limit(1000 << 20), 940 << 20);
        assert_eq!(memory_limit(1 << 20), 0);
    }
}

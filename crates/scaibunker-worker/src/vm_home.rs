//! The directory of one microVM: its record, its sockets, its disk.
//!
//! ```text
//! <data dir>/vms/<vm id>/record.json   who owns what; written before anything else is made
//!                        scratch.ext4  the writable disk
//!                        qmp.sock, agent.sock
//!                        stderr        what the VMM printed
//!                        execs/        detached commands, see `execs`
//! ```
//!
//! A record without a claim belongs to the warm pool; a restarted server frees its VM. One with a
//! claim is adopted while its process lives.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use scaibunker_api::{
    ids::{BunkerId, VmId},
    worker::StartNetwork,
};
use serde::{Deserialize, Serialize};

use crate::vitals::ProcessStat;

/// What survives the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Slot of the uid range that the VMM runs under.
    pub uid_slot: u32,
    pub process: Option<ProcessMark>,
    pub claim: Option<Claim>,
    /// Set before the guest is stopped, and cleared once it runs again with its clock set: the
    /// next server makes the guest what is written here.
    pub paused: Option<Pause>,
    /// PCI addresses of the GPUs that the VM has.
    #[serde(default)]
    pub gpus: Vec<String>,
}

/// What is kept of a paused bunker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it last worked.
    pub last_active_at: Timestamp,
}

/// A pid and the moment it started, in clock ticks since boot: together they name one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    pub pid: i32,
    pub start_ticks: u64,
}

/// The bunker that owns the microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub bunker_id: BunkerId,
    pub image_user: String,
    /// `sha256:…` of the image's root file system.
    #[serde(default)]
    pub image: String,
    /// Where commands start that name no place; empty means the user's home.
    #[serde(default)]
    pub workdir: String,
    /// The image's and the bunker's.
    pub env: BTreeMap<String, String>,
    pub started_at: Timestamp,
    /// What it may reach.
    #[serde(default)]
    pub network: StartNetwork,
    /// Size of its disk; 0 of one made before that was written down.
    #[serde(default)]
    pub disk_mb: u32,
}

impl ProcessMark {
    /// The mark of a process that runs now. One that has ended and is not reaped yet does not:
    /// after a crash of the server nobody may be there to reap it.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = ProcessStat::of(pid)?;
        if stat.has_ended {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { pid, start_ticks: stat.start_ticks })
    }

    /// What the kernel tells of the process, while it is there.
    pub fn stat(self) -> io::Result<ProcessStat> {
        let stat = ProcessStat::of(self.pid)?;
        if stat.has_ended || stat.start_ticks != self.start_ticks {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(stat)
    }

    /// Whether that process is still there.
    #[must_use]
    pub fn is_alive(self) -> bool {
        self.stat().is_ok()
    }
}

/// Owns the directory; dropping it removes the directory.
#[derive(Debug)]
pub struct VmHome {
    path: PathBuf,
    record: VmRecord,
    keep: bool,
}

impl VmHome {
    /// Makes the directory with its first record.
    pub fn create(vms_dir: &Path, vm_id: VmId, uid_slot: u32) -> io::Result<Self> {
        let record = VmRecord { uid_slot, ..VmRecord::default() };
        let home = Self { path: vms_dir.join(vm_id.to_string()), record, keep: false };
        fs::DirBuilder::new().mode(0o700).create(&home.path)?;
        home.write()?;
        Ok(home)
    }

    /// The homes an earlier server left. One whose record was never written has an empty one:
    /// its server died before it started a process.
    pub fn scan(vms_dir: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(vms_dir)? {
            let path = entry?.path();
            let record = fs::read(path.join("record.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            found.push(Self { path, record, keep: false });
        }
        Ok(found)
    }

    /// What is written down of the VM.
    #[must_use]
    pub fn record(&self) -> &VmRecord {
        &self.record
    }

    /// Writes down the VMM process.
    pub fn set_process(&mut self, pid: i32) -> io::Result<()> {
        self.record.process = Some(ProcessMark::of(pid)?);
        self.write()
    }

    /// Writes down the GPUs that the VM has.
    pub fn set_gpus(&mut self, addresses: Vec<String>) -> io::Result<()> {
        self.record.gpus = addresses;
        self.write()
    }

    /// Writes down the bunker that owns the VM.
    pub fn set_claim(&mut self, claim: Claim) -> io::Result<()> {
        self.record.claim = Some(claim);
        self.write()
    }

    /// Writes down whether the bunker is paused.
    pub fn set_paused(&mut self, paused: Option<Pause>) -> io::Result<()> {
        let earlier = std::mem::replace(&mut self.record.paused, paused);
        self.write().inspect_err(|_| self.record.paused = earlier)
    }

    /// Replaces the record; a reader sees the old or the new one, never a part.
    fn write(&self) -> io::Result<()> {
        let next = self.path.join("record.json.next");
        fs::write(&next, serde_json::to_vec(&self.record)?)?;
        fs::rename(next, self.path.join("record.json"))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's name, which is the VM's id.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where the writable disk is.
    #[must_use]
    pub fn scratch_path(&self) -> PathBuf {
        self.path.join("scratch.ext4")
    }

    /// What the VMM prints goes here, for the operator; bounded by the jail's file limit.
    pub fn stderr(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.path.join("stderr"))
    }

    /// The last of what the VMM printed, in one line of printable text.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        const TAIL_BYTES: usize = 400;
        let text = fs::read(self.path.join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL_BYTES)..])
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect::<String>()
            .trim()
            .to_owned()
    }

    /// Listens on a socket in the directory. The path goes through the directory's descriptor,
    /// because a socket's address holds only 108 bytes.
    pub fn listen(&self, socket: &str) -> io::Result<OwnedFd> {
        let (_dir, path) = self.short_path(socket)?;
        Ok(UnixListener::bind(path)?.into())
    }

    /// Connects to a socket in the directory.
    pub async fn connect(&self, socket: &str) -> io::Result<tokio::net::UnixStream> {
        let (_dir, path) = self.short_path(socket)?;
        tokio::net::UnixStream::connect(path).await
    }

    fn short_path(&self, socket: &str) -> io::Result<(File, String)> {
        let dir = File::open(&self.path)?;
        let path = format!("/proc/self/fd/{}/{socket}", dir.as_raw_fd());
        Ok((dir, path))
    }

    /// Leaves the directory in place, for the next server.
    pub fn leave(mut self) {
        self.keep = true;
    }
}

impl Drop for VmHome {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a VM's directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_home_is_gone_and_a_left_one_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(VmHome::create(dir.path(), VmId::generate(), 1).unwrap());
        assert!(VmHome::scan(dir.path()).unwrap().is_empty());
        let mut kept = VmHome::create(dir.path(), VmId::generate(), 3).unwrap();
        kept.set_process(std::process::id() as i32).unwrap();
        kept.set_paused(Some(Pause { last_active_at: Timestamp::now() })).unwrap();
        let record = kept.record().clone();
        kept.leave();
        let found = VmHome::scan(dir.path()).unwrap();
        assert_eq!(found[0].record(), &record);
        assert!(found[0].record().process.unwrap().is_alive());
    }

    #[test]
    fn a_mark_names_one_process() {
        let own = ProcessMark::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessMark { start_ticks: own.start_ticks + 1, ..own }.is_alive());
    }

    #[test]
    fn an_ended_process_has_no_mark() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        while ProcessMark::of(pid).is_ok() {
            std::thread::yield_now();
        }
        // It is still there, for its parent to reap.
        assert!(fs::exists(format!("/proc/{pid}")).unwrap());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn sockets_work_under_a_path_longer_than_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let home = VmHome::create(&deep, VmId::generate(), 0).unwrap();
        let _listener = home.listen("agent.sock").unwrap();
        home.connect("agent.sock").await.unwrap();
    }
}

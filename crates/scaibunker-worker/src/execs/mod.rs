//! The commands of one bunker: those that run, and the last of those that have ended.
//!
//! One task drives each command (`drive`); it alone hears the guest. What the command says goes
//! into its journal, and from there to its readers, each at its own pace:
//!
//! ```text
//! guest ─▶ drive ─▶ keeper ─▶ storage proxy
//!             └──▶ journal ─▶ reader ─▶ link          input ─▶ guest
//! ```
//!
//! A primary reader is waited for without limit, and an attached command ends with it; a shell
//! waits for its one client, and outlives it for a while; every other reader is waited for a few
//! seconds and then loses output, which it is told of.

mod drive;
mod exec;
mod guest_answer;
mod input;
mod journal;
mod keeper;
mod launch;
mod reader;
mod record;
mod shortened;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::ExecMode,
    ids::ExecId,
    worker::{ExecReport, StartExec},
};
use tokio::sync::mpsc;

use self::record::ExecRecords;
pub use self::{
    drive::{END_LIMIT, Run},
    exec::{Exec, ended, limited},
    keeper::Keeper,
    launch::{guest_spec, terminal_size},
    reader::Reader,
};

/// Leaves what is known of a bunker's commands in the directory of its next VM, for [`Execs::restore`].
pub async fn leave(vm_dir: &Path, reports: Vec<ExecReport>) {
    let records = ExecRecords::in_dir(vm_dir);
    for report in reports {
        records.write(report).await;
    }
}

/// Commands of one bunker that run at once.
const MAX_RUNNING: usize = 64;
/// Ended commands that are remembered.
const MAX_ENDED: usize = 64;
/// Output of ended commands that stays at hand.
const MAX_ENDED_BYTES: usize = 4 * 1024 * 1024;

/// The commands of one bunker, the earliest first.
#[derive(Default)]
pub struct Execs {
    list: Mutex<Vec<Arc<Exec>>>,
    /// Set once there is a VM.
    records: OnceLock<ExecRecords>,
}

impl Execs {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<Exec>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Detached commands are written down in this directory of the bunker's VM from now on.
    pub fn record_in(&self, vm_dir: &Path) {
        // A bunker has one VM.
        let _ = self.records.set(ExecRecords::in_dir(vm_dir));
    }

    /// Remembers the detached commands of an earlier server. Those that ran then were ended by
    /// the agent, because the session ended.
    pub async fn restore(&self) {
        let Some(records) = self.records.get() else { return };
        for report in records.load() {
            let message = "the worker restarted while the command ran; its processes were ended, unless the \
                           bunker was paused";
            let lost = ErrorBody::new(ErrorCode::BunkerLost, message);
            let exec = Exec::restored(report.clone(), lost);
            if report.ended_at.is_none() {
                records.write(exec.report()).await;
            }
            self.list().push(exec);
        }
        self.settle();
    }

    /// Adds a command; what is fed to it comes out of the receiver, encoded.
    pub fn begin(
        &self,
        start: &StartExec,
    ) -> Result<(Arc<Exec>, mpsc::Receiver<Bytes>), ErrorBody> {
        let mut list = self.list();
        if running(&list) >= MAX_RUNNING {
            let message = format!("the bunker runs {MAX_RUNNING} commands already; wait for one");
            return Err(limited(message));
        }
        if list.iter().any(|exec| exec.id == start.exec_id) {
            let message = format!("the bunker has a command {} already", start.exec_id);
            return Err(ErrorBody::new(ErrorCode::BadRequest, message));
        }
        let (exec, input) = Exec::new(start.exec_id, start.mode, start.command.as_ref());
        list.push(Arc::clone(&exec));
        Ok((exec, input))
    }

    /// A command that runs or is remembered.
    pub fn get(&self, id: ExecId) -> Result<Arc<Exec>, ErrorBody> {
        let found = self.list().iter().find(|exec| exec.id == id).cloned();
        found.ok_or_else(|| {
            let message = format!("the bunker knows no command {id}, or has forgotten it");
            ErrorBody::new(ErrorCode::ExecNotFound, message)
        })
    }

    /// How many commands and shells run.
    #[must_use]
    pub fn running(&self) -> usize {
        running(&self.list())
    }

    /// What is known of every command.
    #[must_use]
    pub fn reports(&self) -> Vec<ExecReport> {
        self.list().iter().map(|exec| exec.report()).collect()
    }

    /// Ends a command if it runs, and forgets it.
    pub async fn remove(&self, id: ExecId) -> Result<(), ErrorBody> {
        let exec = self.get(id)?;
        let message = format!("command {id} was deleted");
        exec.cancel(ErrorBody::new(ErrorCode::ExecEnded, message));
        exec.until_ended().await;
        self.list().retain(|other| other.id != id);
        self.forget(&exec);
        Ok(())
    }

    /// Writes a detached command down.
    async fn record(&self, report: ExecReport) {
        if let Some(records) = self.records.get() {
            records.write(report).await;
        }
    }

    fn forget(&self, exec: &Exec) {
        if let (ExecMode::Detached, Some(records)) = (exec.mode, self.records.get()) {
            records.remove(exec.id);
        }
    }

    /// Keeps what is remembered within its bounds; the earliest ended goes first.
    fn settle(&self) {
        let mut list = self.list();
        let mut ended: Vec<Arc<Exec>> =
            list.iter().filter(|exec| exec.has_ended()).cloned().collect();
        ended.sort_by_key(|exec| exec.ended_at());
        let surplus = ended.len().saturating_sub(MAX_ENDED);
        for exec in ended.drain(..surplus) {
            list.retain(|other| other.id != exec.id);
            self.forget(&exec);
        }
        drop(list);
        let mut bytes: usize = ended.iter().map(|exec| exec.journal_bytes()).sum();
        for exec in &ended {
            if bytes <= MAX_ENDED_BYTES {
                return;
            }
            bytes -= exec.clear_unread();
        }
    }
}

fn running(list: &[Arc<Exec>]) -> usize {
    list.iter().filter(|exec| !exec.has_ended()).count()
}

//! What is written down of detached commands, so that none vanishes with the server.
//!
//! ```text
//! <VM's directory>/execs/<exec id>.json   the command's report, written before its start is told
//! ```

use std::{
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use scaibunker_api::{ids::ExecId, worker::ExecReport};

/// The records of one VM.
#[derive(Debug, Clone)]
pub struct ExecRecords {
    dir: PathBuf,
}

impl ExecRecords {
    /// Records in the directory of a VM. Nothing is made yet.
    #[must_use]
    pub fn in_dir(vm_dir: &Path) -> Self {
        Self { dir: vm_dir.join("execs") }
    }

    /// Writes or replaces a record; a reader sees the old or the new one, never a part.
    pub async fn write(&self, report: ExecReport) {
        let (records, exec_id) = (self.clone(), report.exec_id);
        let written = tokio::task::spawn_blocking(move || records.replace(&report)).await;
        if let Err(error) = written.map_err(io::Error::from).and_then(std::convert::identity) {
            tracing::warn!(%exec_id, %error, "a detached command's record cannot be written");
        }
    }

    fn replace(&self, report: &ExecReport) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let next = self.dir.join(format!("{}.next", report.exec_id));
        fs::write(&next, serde_json::to_vec(report)?)?;
        fs::rename(next, self.path(report.exec_id))
    }

    /// Removes a record, if there is one.
    pub fn remove(&self, exec_id: ExecId) {
        match fs::remove_file(self.path(exec_id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%exec_id, %error, "a detached command's record stays behind");
            }
            _ => {}
        }
    }

    /// Every record that can be read, the earliest start first.
    #[must_use]
    pub fn load(&self) -> Vec<ExecReport> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let mut reports: Vec<ExecReport> = paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
            .collect();
        reports.sort_by_key(|report| report.started_at);
        reports
    }

    fn path(&self, exec_id: ExecId) -> PathBuf {
        self.dir.join(format!("{exec_id}.json"))
    }
}

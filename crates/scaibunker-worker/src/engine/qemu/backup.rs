//! Copies of the writable disk as it is at one moment, made by QEMU while the guest goes on: what the guest
//! overwrites is copied first.

use std::{fs::File, os::fd::AsFd as _, time::Duration};

use scaibunker_guest_protocol::SCRATCH_DISK_SERIAL;
use serde_json::json;
use tokio::time::sleep;

use super::qmp::Qmp;
use crate::engine::EngineError;

/// One at a time: the names need not differ.
const JOB: &str = "backup";
const TARGET: &str = "backup-target";
/// Beyond those of the disks.
const FD_SET: u32 = 1_000;

const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Pieces that are copied at the same time, and the most that is in one.
const MAX_WORKERS: u32 = 8;
const MAX_CHUNK_BYTES: u32 = 1 << 20;
/// Attempts to get rid of a job: ten seconds of them.
const DISMISSALS: usize = 5_000;

/// Begins to copy the disk into `target`, as it is now.
pub async fn begin(qmp: &mut Qmp, target: &File) -> Result<(), EngineError> {
    let begun = start(qmp, target).await;
    if begun.is_err() {
        clear(qmp).await;
    }
    begun
}

/// Waits for the end of what was begun.
pub async fn finish(qmp: &mut Qmp) -> Result<(), EngineError> {
    let finished = follow(qmp).await;
    clear(qmp).await;
    finished
}

async fn start(qmp: &mut Qmp, target: &File) -> Result<(), EngineError> {
    qmp.add_fd(FD_SET, target.as_fd()).await?;
    let node = json!({
        "driver": "raw",
        "node-name": TARGET,
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": { "driver": "file", "filename": format!("/dev/fdset/{FD_SET}"), "locking": "off" },
    });
    qmp.execute("blockdev-add", node).await?;
    let job = json!({
        "job-id": JOB,
        "device": SCRATCH_DISK_SERIAL,
        "target": TARGET,
        "sync": "full",
        // Bytes a second, until the guest goes on: copying keeps QEMU from telling it that it may.
        "speed": 1,
        "auto-dismiss": false,
        // Else it holds up to 128 MiB at once, for which a VMM of full memory is killed.
        "x-perf": { "max-workers": MAX_WORKERS, "max-chunk": MAX_CHUNK_BYTES },
    });
    qmp.execute("blockdev-backup", job).await.map(drop)
}

async fn follow(qmp: &mut Qmp) -> Result<(), EngineError> {
    // A small disk may be copied already; what became of the job is looked at below.
    let _ = qmp.execute("block-job-set-speed", json!({ "device": JOB, "speed": 0 })).await;
    loop {
        let jobs = qmp.execute("query-jobs", json!({})).await?;
        let job = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == JOB));
        let Some(job) = job else {
            return Err(EngineError::Protocol("the copy of the disk is gone".to_owned()));
        };
        if job["status"] == "concluded" {
            return match job["error"].as_str() {
                None => Ok(()),
                Some(error) => {
                    let message = error.to_owned();
                    Err(EngineError::Refused { command: "blockdev-backup", message })
                }
            };
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Ends a copy and lets go of its target. Whatever of that is not there is no error.
pub async fn clear(qmp: &mut Qmp) {
    let is_cancelled = qmp.execute("job-cancel", json!({ "id": JOB })).await.is_ok();
    for _ in 0..DISMISSALS {
        // One that was cancelled is dismissed when it has ended.
        let dismissed = qmp.execute("job-dismiss", json!({ "id": JOB })).await;
        if dismissed.is_ok() || !is_cancelled {
            break;
        }
        sleep(POLL_INTERVAL).await;
    }
    let _ = qmp.execute("blockdev-del", json!({ "node-name": TARGET })).await;
    let _ = qmp.execute("remove-fd", json!({ "fdset-id": FD_SET })).await;
}

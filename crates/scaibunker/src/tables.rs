//! Records as tables.

mod audit;
mod egress;
mod identity;
mod images;
mod quota;
mod snapshots;

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use scaibunker_api::{
    bridge::Bridge,
    bunker::Bunker,
    exec::{Command, ExecMode, ExecRecord, ExecStatus},
    file::{FileEntry, FileType},
    worker::{Worker, WorkerStatus},
};

pub use self::{
    audit::audit_entries,
    egress::egress_events,
    identity::{
        api_keys, custom_role, custom_roles, group, groups, me, partners, tenant, tenants, user,
        users,
    },
    images::{cache_status, findings, image, image_cache, image_scan, image_status, images},
    quota::{assignments, quota_profile, quota_profiles, usage, usage_heading},
    snapshots::{snapshot_checks, snapshots},
};
use crate::{output::printable, sh_quote};

/// Spaces between two columns.
const GAP: u16 = 2;

/// A table with this header and these rows, without lines, so that other programs can cut it.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let mut table = bare();
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell)));
    }
    spaced(table)
}

/// Bridges of workers.
pub fn bridges(bridges: &[Bridge]) -> Table {
    table(
        ["ID", "NAME", "WORKER", "MTU", "CREATED"],
        bridges.iter().map(|bridge| {
            [
                bridge.id.to_string(),
                bridge.name.clone(),
                bridge.worker_id.to_string(),
                or_dash(bridge.mtu.map(|mtu| mtu.to_string()).unwrap_or_default()),
                time(bridge.created_at),
            ]
        }),
    )
}

/// One record, a field a line.
fn fields<const N: usize>(fields: [(&str, String); N]) -> Table {
    let mut table = bare();
    for (name, value) in fields {
        table.add_row([name, &printable(&value)]);
    }
    spaced(table)
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn spaced(mut table: Table) -> Table {
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table
}

/// A cell that something is in.
fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// A time as the API writes it.
fn time(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// Bunkers with their age at `now`.
pub fn bunkers(bunkers: &[Bunker], now: Timestamp) -> Table {
    let header = ["ID", "NAME", "IMAGE", "STATUS", "CPU", "MEMORY", "NETWORK", "CREATED"];
    table(
        header,
        bunkers.iter().map(|bunker| {
            [
                bunker.id.to_string(),
                bunker.name.clone().unwrap_or_else(|| "-".to_owned()),
                bunker.image.clone(),
                match &bunker.status_reason {
                    Some(reason) => format!("{} ({reason})", bunker.status.as_str()),
                    None => bunker.status.as_str().to_owned(),
                },
                cores(bunker.cpu_millicores.into()),
                mib(bunker.memory_mb.into()),
                bunker.network_profile.as_str().to_owned(),
                ago(bunker.created_at, now),
            ]
        }),
    )
}

/// Workers with what of theirs is in use, and their last sign of life at `now`.
pub fn workers(workers: &[Worker], now: Timestamp) -> Table {
    let header =
        ["ID", "NAME", "STATUS", "BUNKERS", "ENGINE", "VERSION", "CPU", "MEMORY", "DISK", "SEEN"];
    table(
        header,
        workers.iter().map(|worker| {
            let (used, all) = (&worker.allocated, &worker.capacity);
            [
                worker.id.to_string(),
                worker.name.clone(),
                worker_status(worker.status).to_owned(),
                worker.bunkers.to_string(),
                worker.engine.clone(),
                worker.version.clone(),
                format!("{} of {}", cores(used.cpu_millicores), cores(all.cpu_millicores)),
                format!("{} of {}", mib(used.memory_mb), mib(all.memory_mb)),
                format!("{} of {}", mib(used.disk_mb), mib(all.disk_mb)),
                worker.last_heartbeat.map_or_else(|| "never".to_owned(), |seen| ago(seen, now)),
            ]
        }),
    )
}

fn worker_status(status: WorkerStatus) -> &'static str {
    match status {
        WorkerStatus::Online => "online",
        WorkerStatus::Offline => "offline",
        WorkerStatus::Draining => "draining",
        WorkerStatus::Drained => "drained",
    }
}

fn gpus(worker: &Worker) -> String {
    let (used, all) = (worker.allocated.gpu_count, worker.capacity.gpu_count);
    match &worker.gpu_type {
        Some(kind) => format!("{used} of {all} {kind}"),
        None => "-".to_owned(),
    }
}

/// All of one worker, with its age at `now`.
pub fn worker(worker: &Worker, now: Timestamp) -> Table {
    let (used, all) = (&worker.allocated, &worker.capacity);
    let images: Vec<_> = worker.images.iter().map(|image| image.name.clone()).collect();
    fields([
        ("id", worker.id.to_string()),
        ("name", worker.name.clone()),
        ("status", worker_status(worker.status).to_owned()),
        ("drained", worker.drained_at.map_or_else(|| "-".to_owned(), time)),
        ("seen", worker.last_heartbeat.map_or_else(|| "never".to_owned(), |seen| ago(seen, now))),
        ("bunkers", worker.bunkers.to_string()),
        ("cpu", format!("{} of {}", cores(used.cpu_millicores), cores(all.cpu_millicores))),
        ("memory", format!("{} of {}", mib(used.memory_mb), mib(all.memory_mb))),
        ("disk", format!("{} of {}", mib(used.disk_mb), mib(all.disk_mb))),
        ("gpus", gpus(worker)),
        ("engine", worker.engine.clone()),
        ("version", worker.version.clone()),
        ("built-in images", or_dash(images.join(", "))),
        ("other images", worker.image_cache.len().to_string()),
    ])
}

/// Commands with how long ago they were started at `now`.
pub fn execs(execs: &[ExecRecord], now: Timestamp) -> Table {
    let header = ["ID", "STATUS", "MODE", "PID", "STARTED", "COMMAND"];
    table(
        header,
        execs.iter().map(|exec| {
            [
                exec.exec_id.to_string(),
                exec_status(exec),
                match exec.mode {
                    ExecMode::Attached => "attached".to_owned(),
                    ExecMode::Detached => "detached".to_owned(),
                    ExecMode::Shell => "shell".to_owned(),
                },
                exec.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                ago(exec.started_at, now),
                match &exec.command {
                    Some(Command::Shell(line)) => line.clone(),
                    Some(Command::Argv(words)) => sh_quote::line(words),
                    None => "(login shell)".to_owned(),
                },
            ]
        }),
    )
}

fn exec_status(exec: &ExecRecord) -> String {
    match (exec.status, &exec.outcome, &exec.error) {
        (ExecStatus::Running, ..) => "running".to_owned(),
        (ExecStatus::Exited, Some(outcome), _) => format!("exited {}", outcome.exit_code),
        (ExecStatus::Exited, None, _) => "exited".to_owned(),
        (ExecStatus::Failed, _, Some(error)) => format!("failed ({})", error.code.as_str()),
        (ExecStatus::Failed, _, None) => "failed".to_owned(),
    }
}

/// Files of a bunker with when they were changed at `now`.
pub fn files(entries: &[FileEntry], now: Timestamp) -> Table {
    let header = ["TYPE", "MODE", "UID", "GID", "BYTES", "CHANGED", "PATH"];
    table(
        header,
        entries.iter().map(|entry| {
            [
                file_type(entry.kind).to_owned(),
                entry.mode.clone(),
                entry.uid.to_string(),
                entry.gid.to_string(),
                entry.size_bytes.to_string(),
                ago(entry.modified_at, now),
                match &entry.symlink_target {
                    Some(target) => format!("{} -> {target}", entry.path),
                    None => entry.path.clone(),
                },
            ]
        }),
    )
}

fn file_type(kind: FileType) -> &'static str {
    match kind {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "link",
        FileType::BlockDevice => "block device",
        FileType::CharDevice => "char device",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
    }
}

/// `1500` as `1.5`.
fn cores(millicores: u64) -> String {
    let text = format!("{}.{:03}", millicores / 1000, millicores % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn mib(size_mb: u64) -> String {
    if size_mb >= 10 * 1024 {
        format!("{:.1} GiB", size_mb as f64 / 1024.0)
    } else {
        format!("{size_mb} MiB")
    }
}

/// How long ago `then` was, in the largest unit that fits. Clocks differ: the future is now.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!([cores(2000), cores(500), cores(1250), cores(0)], ["2", "0.5", "1.25", "0"]);
        assert_eq!([mib(256), mib(24_064)], ["256 MiB", "23.5 GiB"]);
    }

    #[test]
    fn ages_use_one_unit() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        for (age, text) in [
            (-5, "0 s ago"),
            (59, "59 s ago"),
            (120, "2 min ago"),
            (7200, "2 h ago"),
            (200_000, "2 d ago"),
        ] {
            let then = Timestamp::from_second(1_000_000_000 - age).unwrap();
            assert_eq!(ago(then, now), text);
        }
    }

    #[test]
    fn cells_cannot_break_the_table() {
        let table = table(["A", "B"], [["x\ny".to_owned(), "\u{1b}[2J".to_owned()]]);
        assert_eq!(table.trim_fmt(), "A    B\nx y   [2J");
    }
}

//! Snapshots, as tables.

use comfy_table::Table;
use scaibunker_api::snapshot::{Snapshot, SnapshotCheck, SnapshotStatus};

use super::{mib, or_dash, table, time};

/// One line for each snapshot.
pub fn snapshots(snapshots: &[Snapshot]) -> Table {
    table(
        ["ID", "NAME", "STATUS", "BUNKER", "SIZE", "STORED", "CREATED", "EXPIRES"],
        snapshots.iter().map(|snapshot| {
            let status = match snapshot.status {
                SnapshotStatus::Creating => "creating",
                SnapshotStatus::Ready => "ready",
                SnapshotStatus::Failed => "failed",
            };
            [
                snapshot.id.to_string(),
                or_dash(snapshot.name.clone().unwrap_or_default()),
                match &snapshot.status_reason {
                    Some(reason) => format!("{status} ({reason})"),
                    None => status.to_owned(),
                },
                snapshot.bunker_id.to_string(),
                mib(snapshot.size_bytes.div_ceil(1 << 20)),
                mib(snapshot.stored_bytes.div_ceil(1 << 20)),
                time(snapshot.created_at),
                or_dash(snapshot.expires_at.map(time).unwrap_or_default()),
            ]
        }),
    )
}

/// One line for each snapshot that was read, and for each damage.
pub fn snapshot_checks(checks: &[SnapshotCheck]) -> Table {
    let lines = checks.iter().flat_map(|check| {
        let line = |found: String| [check.snapshot_id.to_string(), check.chunks.to_string(), found];
        match check.damage.as_slice() {
            [] => vec![line("sound".to_owned())],
            damage => damage.iter().map(|damage| line(damage.clone())).collect(),
        }
    });
    table(["SNAPSHOT", "CHUNKS", "FOUND"], lines)
}

//! `scaibunker snapshot` and `scaibunker snapshots`

use anyhow::anyhow;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use scaibunker_api::snapshot::{
    CreateSnapshot, Snapshot, SnapshotCheck, SnapshotKind, SnapshotStatus,
};

use crate::{
    bunker_ref, cli::GlobalArgs, exit::Failure, object_ref::resolve_all, output::Output, records,
    tables,
};

/// Keep what a bunker's disk holds at this moment, or all of the bunker, and print the snapshot's id; the
/// bunker goes on
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// What the snapshot is called
    #[arg(long)]
    name: Option<String>,
    /// Keep its memory and everything that runs too
    #[arg(long)]
    memory: bool,
    /// When it is deleted, such as 2027-01-31T00:00:00Z [default: never]
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
    /// Print the id as soon as there is one, while it is still being stored
    #[arg(long)]
    no_wait: bool,
}

/// Snapshots of bunkers
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    #[command(subcommand)]
    what: Option<Snapshots>,
}

#[derive(Debug, Subcommand)]
enum Snapshots {
    /// List snapshots, newest first; with --quiet only their ids
    Ls,
    /// Delete snapshots and print their ids
    Rm {
        /// Id, or a name that only one snapshot has
        #[arg(value_name = "SNAPSHOT", required = true)]
        snapshots: Vec<String>,
    },
    /// Read everything of snapshots and compare it with what was written; ends with 1 if any is damaged
    Verify {
        /// Id, or a name that only one snapshot has; without any, all that are ready
        #[arg(value_name = "SNAPSHOT")]
        snapshots: Vec<String>,
    },
}

pub async fn take(global: &GlobalArgs, args: SnapshotArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let request = CreateSnapshot {
        name: args.name,
        kind: if args.memory { SnapshotKind::Memory } else { SnapshotKind::Disk },
        expires_at: args.expires_at,
    };
    let progress = output.progress("storing the snapshot");
    let made = client.create_snapshot(id, &request, !args.no_wait).await?;
    drop(progress);
    records::made(output, &made)?;
    match (made.status, made.status_reason) {
        (SnapshotStatus::Failed, reason) => {
            Err(anyhow!("the snapshot failed: {}", reason.unwrap_or_default()).into())
        }
        _ => Ok(()),
    }
}

pub async fn run(global: &GlobalArgs, args: SnapshotsArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what.unwrap_or(Snapshots::Ls) {
        Snapshots::Ls => {
            let snapshots = client.list::<Snapshot>().await?;
            records::list(output, &snapshots, tables::snapshots)
        }
        Snapshots::Rm { snapshots } => {
            records::remove::<Snapshot>(&client, output, &snapshots).await
        }
        Snapshots::Verify { snapshots } => {
            let ids = if snapshots.is_empty() {
                let all = client.list::<Snapshot>().await?;
                let ready = all.iter().filter(|one| one.status == SnapshotStatus::Ready);
                ready.map(|one| one.id).collect()
            } else {
                resolve_all::<Snapshot>(&client, &snapshots).await?
            };
            let mut checks = Vec::new();
            for (at, id) in ids.iter().enumerate() {
                let _progress = output.progress(&format!("snapshot {} of {}", at + 1, ids.len()));
                checks.push(client.verify_snapshot(*id).await?);
            }
            show(output, &checks)
        }
    }
}

fn show(output: Output, checks: &[SnapshotCheck]) -> Result<(), Failure> {
    if output.is_json() {
        output.document(&checks)?;
    } else {
        output.table(&tables::snapshot_checks(checks))?;
    }
    match checks.iter().filter(|check| !check.damage.is_empty()).count() {
        0 => Ok(()),
        damaged => Err(anyhow!("{damaged} of {} snapshots are damaged", checks.len()).into()),
    }
}

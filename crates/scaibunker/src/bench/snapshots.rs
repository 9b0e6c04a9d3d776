//! `scaibunker bench snapshots`: keeping a bunker's disk, or all of it, starting from that, forking, pausing.

use std::time::Instant;

use clap::Args;
use futures_util::future::join_all;
use scaibunker_api::{
    bunker::{BunkerStatus, CreateBunker, ForkRequest},
    exec::ExecRequest,
    ids::{BunkerId, SnapshotId},
    snapshot::{CreateSnapshot, Snapshot, SnapshotKind, SnapshotStatus},
};
use serde::Serialize;

use super::{
    BenchBunkerArgs,
    figure::{self, Figure, Unit, code},
    fleet::Fleet,
    report::{self, Header},
};
use crate::{
    cli::GlobalArgs,
    client::Client,
    commands::exec,
    exit::{self, Failure},
    output::Progress,
    signals::Stop,
};

/// Snapshots, starts from them, forks, pauses
///
/// Fills a file with bytes that nothing was made of before and does not wait for the disk, takes a snapshot,
/// takes another one of the same, starts a bunker from it, pauses and resumes one, and forks it until a
/// command has run in each child. Then fills memory in the same way and takes a snapshot of that. From the
/// call to the answer, one after the other.
#[derive(Debug, Args)]
pub struct SnapshotsBenchArgs {
    #[command(flatten)]
    bunker: BenchBunkerArgs,
    /// A short run, to see that it works [default: 5 times, 100 MiB]
    #[arg(long)]
    quick: bool,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: Option<u32>,
    /// MiB that are new on the disk each time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    dirty_mb: Option<u32>,
    /// MiB that are new in memory each time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    used_mb: Option<u32>,
    /// Children of a fork
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    children: Option<u32>,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    #[serde(flatten)]
    load: Load,
    figures: Vec<Figure>,
}

/// How much is done each time.
#[derive(Debug, Clone, Copy, Serialize)]
struct Load {
    count: u32,
    dirty_mb: u32,
    used_mb: u32,
    children: u32,
}

/// Measures, ends the bunkers, deletes the snapshots, prints; gives the exit code.
pub async fn run(
    global: &GlobalArgs,
    args: &SnapshotsBenchArgs,
    stop: Stop,
) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let usual = match args.quick {
        true => Load { count: 1, dirty_mb: 4, used_mb: 4, children: 2 },
        false => Load { count: 5, dirty_mb: 100, used_mb: 150, children: 10 },
    };
    let load = Load {
        count: args.count.unwrap_or(usual.count),
        dirty_mb: args.dirty_mb.unwrap_or(usual.dirty_mb),
        used_mb: args.used_mb.unwrap_or(usual.used_mb),
        children: args.children.unwrap_or(usual.children),
    };
    let header = Header::of("snapshots", &client, &args.bunker).await;
    let fleet = Fleet::new(client.clone());
    let progress = output.progress("starting a bunker");
    let disk_mb = Some(load.dirty_mb * 2 + 128);
    let request = CreateBunker { disk_mb, ..args.bunker.request() };
    let mut bench = Bench { client: &client, fleet: &fleet, taken: Vec::new() };
    let measured = async {
        let ids = fleet.create_running(&request, 1, &stop).await?;
        let mut figures = Vec::new();
        for id in ids {
            tokio::select! {
                biased;
                signal = stop.requested() => return Err(Failure::Stopped(signal)),
                measured = bench.measure(id, load, &progress) => figures.extend(measured),
            }
        }
        Ok(figures)
    };
    let measured = measured.await;
    drop(progress);
    for id in &bench.taken {
        client.delete::<Snapshot>(*id).await?;
    }
    fleet.end_all().await?;
    let report = Report { header, load, figures: measured? };
    let table = figure::figures(&report.figures);
    let Load { dirty_mb, used_mb, children, .. } = load;
    let about = format!(
        "; {dirty_mb} MiB new on the disk and {used_mb} MiB in memory each time; forks of {children}"
    );
    report::print(output, &report, &report.header, &about, &table)?;
    let failed = report.figures.iter().any(Figure::has_failures);
    Ok(if failed { exit::FAILED } else { 0 })
}

struct Bench<'a> {
    client: &'a Client,
    fleet: &'a Fleet,
    taken: Vec<SnapshotId>,
}

impl Bench<'_> {
    async fn measure(
        &mut self,
        id: BunkerId,
        Load { count, dirty_mb, used_mb, children }: Load,
        progress: &Progress,
    ) -> Vec<Figure> {
        let mut first = Figure::new("snapshot until ready", Unit::Milliseconds, Some(700.0));
        let mut again = Figure::new("another one, unchanged", Unit::Milliseconds, None);
        let mut start = Figure::new("start from it", Unit::Milliseconds, Some(200.0));
        let mut pause = Figure::new("pause", Unit::Milliseconds, Some(20.0));
        let mut resume = Figure::new("resume", Unit::Milliseconds, Some(20.0));
        let mut fork =
            Figure::new("fork until a command ran in each", Unit::Milliseconds, Some(600.0));
        let mut memory =
            Figure::new("snapshot of memory until ready", Unit::Milliseconds, Some(1500.0));
        for round in 0..count {
            progress.say(&format!("round {} of {count}", round + 1));
            if let Err(code) = self.fill(id, "/scaibunker-bench", dirty_mb).await {
                first.record(Err(code));
                continue;
            }
            first.record(self.take(id, SnapshotKind::Disk).await);
            again.record(self.take(id, SnapshotKind::Disk).await);
            start.record(self.start().await);
            let began = Instant::now();
            let paused = self.client.pause_bunker(id).await;
            pause.record(paused.map(|_| figure::time(began.elapsed())).map_err(code));
            let began = Instant::now();
            let resumed = self.client.resume_bunker(id).await;
            resume.record(resumed.map(|_| figure::time(began.elapsed())).map_err(code));
            fork.record(self.fork(id, children).await);
            memory.record(match self.fill(id, "/dev/shm/scaibunker-bench", used_mb).await {
                Ok(()) => self.take(id, SnapshotKind::Memory).await,
                Err(code) => Err(code),
            });
            // Else the next round is about a bunker that is short of memory.
            let _ = self.sh(id, "rm -f /dev/shm/scaibunker-bench").await;
        }
        [first, again, start, pause, resume, fork, memory].map(Figure::finished).into()
    }

    async fn fill(&self, id: BunkerId, file: &str, mb: u32) -> Result<(), String> {
        self.sh(id, &format!("dd if=/dev/urandom of={file} bs=1M count={mb} 2>/dev/null")).await
    }

    async fn sh(&self, id: BunkerId, line: &str) -> Result<(), String> {
        let words = ["sh", "-c", line].map(str::to_owned).to_vec();
        let user = Some("root".to_owned());
        let request = ExecRequest { user, timeout_s: 600, ..exec::request(words) };
        let answer = self.client.exec(id, &request).await.map_err(code)?;
        match answer.outcome.exit_code {
            0 => Ok(()),
            failed => Err(format!("exit code {failed}")),
        }
    }

    async fn take(&mut self, id: BunkerId, kind: SnapshotKind) -> Result<f64, String> {
        let began = Instant::now();
        let request = CreateSnapshot { kind, ..CreateSnapshot::default() };
        let taken = self.client.create_snapshot(id, &request, true).await.map_err(code)?;
        let took = figure::time(began.elapsed());
        self.taken.push(taken.id);
        if taken.status == SnapshotStatus::Ready { Ok(took) } else { Err("not ready".to_owned()) }
    }

    async fn fork(&self, id: BunkerId, count: u32) -> Result<f64, String> {
        let began = Instant::now();
        let children = self.client.fork_bunker(id, &ForkRequest { count }).await.map_err(code)?;
        children.iter().for_each(|child| self.fleet.remember(child.id));
        let request = exec::request(vec!["true".to_owned()]);
        let commands = children.iter().map(|child| self.client.exec(child.id, &request));
        let ran = join_all(commands).await;
        let took = figure::time(began.elapsed());
        for child in &children {
            self.fleet.end(child.id).await.map_err(code)?;
        }
        ran.into_iter().collect::<Result<Vec<_>, _>>().map(|_| took).map_err(code)
    }

    /// From the last one that was taken.
    async fn start(&self) -> Result<f64, String> {
        let snapshot_id = self.taken.last().copied();
        let request = CreateBunker { snapshot_id, ..CreateBunker::default() };
        let began = Instant::now();
        let made = self.fleet.create(&request).await.map_err(code)?.data;
        let took = figure::time(began.elapsed());
        self.fleet.end(made.id).await.map_err(code)?;
        if made.status == BunkerStatus::Running { Ok(took) } else { Err("not running".to_owned()) }
    }
}

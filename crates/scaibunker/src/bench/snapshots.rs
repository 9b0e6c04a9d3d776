//! `scaibunker bench snapshots`: keeping a bunker's disk, starting from that, pausing.

use std::time::Instant;

use clap::Args;
use scaibunker_api::{
    bunker::{BunkerStatus, CreateBunker},
    exec::ExecRequest,
    ids::{BunkerId, SnapshotId},
    snapshot::{CreateSnapshot, Snapshot, SnapshotStatus},
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

/// Snapshots, starts from them, pauses
///
/// Fills a file with bytes that nothing was made of before and does not wait for the disk, takes a snapshot,
/// takes another one of the same, starts a bunker from it, and pauses and resumes one. From the call to the
/// answer, one after the other.
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
    /// MiB that are new each time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    dirty_mb: Option<u32>,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    dirty_mb: u32,
    figures: Vec<Figure>,
}

/// Measures, ends the bunkers, deletes the snapshots, prints; gives the exit code.
pub async fn run(
    global: &GlobalArgs,
    args: &SnapshotsBenchArgs,
    stop: Stop,
) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let (count, dirty_mb) = match args.quick {
        true => (args.count.unwrap_or(1), args.dirty_mb.unwrap_or(4)),
        false => (args.count.unwrap_or(5), args.dirty_mb.unwrap_or(100)),
    };
    let header = Header::of("snapshots", &client, &args.bunker).await;
    let fleet = Fleet::new(client.clone());
    let progress = output.progress("starting a bunker");
    let disk_mb = Some(dirty_mb * 2 + 128);
    let request = CreateBunker { disk_mb, ..args.bunker.request() };
    let mut bench = Bench { client: &client, fleet: &fleet, taken: Vec::new() };
    let measured = async {
        let ids = fleet.create_running(&request, 1, &stop).await?;
        let mut figures = Vec::new();
        for id in ids {
            tokio::select! {
                biased;
                signal = stop.requested() => return Err(Failure::Stopped(signal)),
                measured = bench.measure(id, count, dirty_mb, &progress) => figures.extend(measured),
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
    let report = Report { header, dirty_mb, figures: measured? };
    let table = figure::figures(&report.figures);
    let about = format!("; {dirty_mb} MiB new each time");
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
        count: u32,
        dirty_mb: u32,
        progress: &Progress,
    ) -> Vec<Figure> {
        let mut first = Figure::new("snapshot until ready", Unit::Milliseconds, Some(700.0));
        let mut again = Figure::new("another one, unchanged", Unit::Milliseconds, None);
        let mut start = Figure::new("start from it", Unit::Milliseconds, Some(200.0));
        let mut pause = Figure::new("pause", Unit::Milliseconds, Some(20.0));
        let mut resume = Figure::new("resume", Unit::Milliseconds, Some(20.0));
        for round in 0..count {
            progress.say(&format!("round {} of {count}", round + 1));
            if let Err(code) = self.fill(id, dirty_mb).await {
                first.record(Err(code));
                continue;
            }
            first.record(self.take(id).await);
            again.record(self.take(id).await);
            start.record(self.start().await);
            let began = Instant::now();
            let paused = self.client.pause_bunker(id).await;
            pause.record(paused.map(|_| figure::time(began.elapsed())).map_err(code));
            let began = Instant::now();
            let resumed = self.client.resume_bunker(id).await;
            resume.record(resumed.map(|_| figure::time(began.elapsed())).map_err(code));
        }
        [first, again, start, pause, resume].map(Figure::finished).into()
    }

    async fn fill(&self, id: BunkerId, dirty_mb: u32) -> Result<(), String> {
        let file = "/scaibunker-bench";
        let line = format!("dd if=/dev/urandom of={file} bs=1M count={dirty_mb} 2>/dev/null");
        let words = ["sh", "-c", &line].map(str::to_owned).to_vec();
        let user = Some("root".to_owned());
        let request = ExecRequest { user, timeout_s: 600, ..exec::request(words) };
        let answer = self.client.exec(id, &request).await.map_err(code)?;
        match answer.outcome.exit_code {
            0 => Ok(()),
            failed => Err(format!("exit code {failed}")),
        }
    }

    async fn take(&mut self, id: BunkerId) -> Result<f64, String> {
        let began = Instant::now();
        let request = CreateSnapshot::default();
        let taken = self.client.create_snapshot(id, &request, true).await.map_err(code)?;
        let took = figure::time(began.elapsed());
        self.taken.push(taken.id);
        if taken.status == SnapshotStatus::Ready { Ok(took) } else { Err("not ready".to_owned()) }
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

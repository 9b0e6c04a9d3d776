//! `scaibunker bench fleet`: one controller and very many workers.
//!
//! The controller is a process of its own, so that its CPU and memory can be told from those of the
//! workers, which are simulated in this one and speak the real protocol over real links.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, StatusCode};
use scaibunker_api::{envelope::ListEnvelope, worker::Capacity};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{
    allow_many_files,
    control::{caller::Caller, sim_worker::SimWorker},
    figure::{self, Figure, Unit, figures},
    machine::{Setting, resident_mib},
};
use crate::{
    cli::GlobalArgs,
    exit::{self, Failure},
    output::Progress,
    signals::Stop,
};

const WORKER_TOKEN: &str = "bench-fleet-worker-token";
const CREATE: &str = r#"{"image":"simulated","cpu_millicores":100,"memory_mb":128,"disk_mb":16,"lifecycle_mode":"persistent"}"#;
/// Links that are made at the same time.
const DIALS: usize = 32;
const START_LIMIT: Duration = Duration::from_secs(60);
/// A death is noticed after 30 s of silence.
const DEATH_LIMIT: Duration = Duration::from_secs(120);

/// Many workers on a controller of its own: links, placement, heartbeats, a worker's death
///
/// Starts a controller with an empty SQLite database in a process of its own, and workers in this
/// one, which are simulated but speak the real protocol. The time of placements is that of the
/// controller's histogram, so it is given as the bound of the bucket that the percentile is in.
#[derive(Debug, Args)]
pub struct FleetBenchArgs {
    /// A short run, to see that it works [default counts: 1000, 50000, 16]
    #[arg(long)]
    quick: bool,
    /// Simulated workers
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    workers: Option<u32>,
    /// Bunkers to make
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    bunkers: Option<u32>,
    /// Connections at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: Option<u32>,
    /// Seconds for which heartbeats alone are watched
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    watch: Option<u32>,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    #[serde(flatten)]
    setting: Setting,
    workers: u32,
    bunkers: u32,
    figures: Vec<Figure>,
}

/// The controller's process; it ends with this value.
struct ControllerProcess {
    process: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl ControllerProcess {
    async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a directory for the bench")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Command::new(std::env::current_exe()?)
            .arg("--data-dir")
            .arg(dir.path())
            .args(["controller", "--listen", &address.to_string()])
            .args(["--rate-limit-key", "0", "--rate-limit-user", "0", "--rate-limit-tenant", "0"])
            .env("SCAIBUNKER_WORKER_TOKEN", WORKER_TOKEN)
            .env("SCAIBUNKER_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a controller")?;
        let mut controller = Self { process, address, dir };
        let began = Instant::now();
        while controller.caller().await.is_err() {
            if controller.process.try_wait()?.is_some() || began.elapsed() > START_LIMIT {
                return Err(anyhow!("the controller does not start"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(controller)
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn caller(&self) -> anyhow::Result<Caller> {
        let key = fs::read_to_string(self.dir.path().join("admin.key"))?;
        Caller::connect(self.address, key.trim()).await
    }

    /// Seconds of CPU that it has used.
    fn cpu(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name, which may hold anything, ends with the last bracket.
        let after = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let fields: Vec<_> = after.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("/proc has no times of it")?;
        Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
    }

    /// The bound of the bucket in which 99 % of all placements are, in milliseconds.
    async fn placement_p99(&self) -> anyhow::Result<f64> {
        const NAME: &str = "scaibunker_placement_duration_seconds_bucket{le=\"";
        let mut caller = self.caller().await?;
        let (_, text) = caller.get_root("/metrics").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let buckets: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| {
                let (bound, count) = line.strip_prefix(NAME)?.split_once("\"} ")?;
                Some((bound.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
            })
            .collect();
        let all = buckets.last().context("the controller counts no placements")?.1;
        let covers = buckets.iter().find(|(_, count)| *count >= 0.99 * all);
        Ok(covers.map_or(f64::INFINITY, |(bound, _)| bound * 1000.0))
    }
}

impl Drop for ControllerProcess {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

/// Measures and prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &FleetBenchArgs, stop: Stop) -> Result<u8, Failure> {
    let output = global.output();
    let or =
        |given: Option<u32>, usual, quick| given.unwrap_or(if args.quick { quick } else { usual });
    let (workers, bunkers) = (or(args.workers, 1_000, 20), or(args.bunkers, 50_000, 200));
    let (clients, watch) = (or(args.clients, 16, 4), or(args.watch, 60, 12));
    allow_many_files();
    let progress = output.progress("starting a controller");
    let controller = ControllerProcess::start().await?;
    let measured = tokio::select! {
        biased;
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        measured = measure(&controller, workers, bunkers, clients, watch, &progress) => measured.map_err(Failure::from),
    };
    drop(progress);
    let report = Report {
        bench: "fleet",
        setting: Setting::with_engine("simulated workers"),
        workers,
        bunkers,
        figures: measured?,
    };
    if output.is_json() {
        output.document(&report)?;
    } else {
        output.line(&report.setting.line())?;
        output.line(&format!("{workers} workers, {bunkers} bunkers"))?;
        output.table(&figures(&report.figures))?;
    }
    let failed = report.figures.iter().any(Figure::has_failures);
    Ok(if failed { exit::FAILED } else { 0 })
}

async fn measure(
    controller: &ControllerProcess,
    workers: u32,
    bunkers: u32,
    clients: u32,
    watch: u32,
    progress: &Progress,
) -> anyhow::Result<Vec<Figure>> {
    progress.say("linking workers");
    let began = Instant::now();
    let url = controller.url();
    // Room for a third more than there will be.
    let share = u64::from(bunkers.div_ceil(workers) * 4 / 3 + 2);
    let capacity = Capacity {
        cpu_millicores: 100 * share,
        memory_mb: 128 * share,
        disk_mb: 16 * share,
        gpu_count: 0,
    };
    let links = (0..workers).map(|_| SimWorker::link(&url, WORKER_TOKEN, capacity));
    let mut fleet: Vec<_> = stream::iter(links).buffer_unordered(DIALS).try_collect().await?;
    let mut linked = Figure::new("all workers linked", Unit::Milliseconds, None);
    linked.record(Ok(figure::time(began.elapsed())));

    progress.say("making bunkers");
    let creates = creates(controller, bunkers, clients).await?;
    if let Some(failure) = creates.first_failure() {
        return Err(anyhow!("not every bunker could be made: {failure}"));
    }
    let mut placement = Figure::new("placement, p99 at most", Unit::Milliseconds, Some(5.0));
    placement.record(Ok(controller.placement_p99().await?));

    progress.say("watching heartbeats");
    let (before, began) = (controller.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(watch.into())).await;
    let used = 100.0 * (controller.cpu()? - before) / began.elapsed().as_secs_f64();
    let mut heartbeats = Figure::new("CPU for heartbeats alone", Unit::Percent, Some(30.0));
    heartbeats.record(Ok((used * 10.0).round() / 10.0));
    let mut memory = Figure::new("memory of the controller", Unit::Mebibytes, None);
    memory.record(Ok(resident_mib(controller.process.id())?));

    progress.say("a worker dies");
    let mut death =
        Figure::new("a dead worker's bunkers have failed", Unit::Milliseconds, Some(35_000.0));
    let victim = fleet.iter().position(|worker| worker.bunkers() > 0);
    let victim = fleet.swap_remove(victim.context("no worker has a bunker")?);
    let lost = victim.bunkers();
    drop(victim);
    death.record(died(controller, lost).await);
    Ok([linked, creates, placement, heartbeats, memory, death].map(Figure::finished).into())
}

async fn creates(
    controller: &ControllerProcess,
    bunkers: u32,
    clients: u32,
) -> anyhow::Result<Figure> {
    let mut work = tokio::task::JoinSet::new();
    for client in 0..clients {
        let share = bunkers / clients + u32::from(client < bunkers % clients);
        let mut caller = controller.caller().await?;
        work.spawn(async move {
            let mut attempts = Vec::with_capacity(share as usize);
            for _ in 0..share {
                let began = Instant::now();
                let created = caller.call(Method::POST, "/bunkers?wait=true", CREATE).await;
                attempts.push(match created {
                    Ok((StatusCode::CREATED, _)) => Ok(figure::time(began.elapsed())),
                    Ok((status, _)) => Err(status.to_string()),
                    Err(error) => Err(error.to_string()),
                });
            }
            attempts
        });
    }
    let mut time = Figure::new("create until it runs", Unit::Milliseconds, None);
    while let Some(ended) = work.join_next().await {
        for attempt in ended.context("a client of the bench crashed")? {
            time.record(attempt);
        }
    }
    Ok(time)
}

#[derive(Deserialize)]
struct Listed {}

/// How long it takes until as many bunkers have failed as a dead worker had.
async fn died(controller: &ControllerProcess, bunkers: usize) -> Result<f64, String> {
    let began = Instant::now();
    let failed = async || {
        let mut caller = controller.caller().await?;
        let path = "/bunkers?status=failed&limit=200";
        let (_, body) = caller.call(Method::GET, path, "").await?;
        anyhow::Ok(serde_json::from_slice::<ListEnvelope<Listed>>(&body)?.data.len())
    };
    while began.elapsed() < DEATH_LIMIT {
        if failed().await.map_err(|error| error.to_string())? >= bunkers.min(200) {
            return Ok(figure::time(began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err("its bunkers still run".to_owned())
}

//! `scaibunker bench control`: the control plane alone, without microVMs.

pub(super) mod caller;
pub(super) mod sim_worker;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use http::{Method, StatusCode};
use scaibunker_controller::{Controller, ControllerConfig, RateLimits};
use serde::Serialize;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    caller::Caller,
    sim_worker::{ENDLESS, SimWorker},
};
use super::{
    figure::{self, Figure, Unit, figures},
    machine::Setting,
};
use crate::{
    cli::GlobalArgs,
    exit::{self, Failure},
    options::StateArgs,
    output::Progress,
    signals::Stop,
};

const CREATE: &str = r#"{"image":"simulated"}"#;
/// More memory than the quota profile of the refused caller lets a bunker have.
const CREATE_TOO_LARGE: &str = r#"{"image":"simulated","memory_mb":1048576}"#;

const WORKER_TOKEN: &str = "bench-control-worker-token";

/// Creates and deletes, checks and lists, on a controller of its own
///
/// Starts a controller in this process with an empty database and a simulated worker that answers
/// at once. Measures pairs of create (until it runs) and delete over many connections; the time of
/// a create that authentication, permission and quota are checked for and quota refuses; and the
/// time of a list of 50 once there are many bunkers.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// A short run, to see that it works [default counts: 32, 100000, 1000]
    #[arg(long)]
    quick: bool,
    /// Connections at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: Option<u32>,
    /// Bunkers to make and delete; they stay on record for the lists
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    bunkers: Option<u32>,
    /// Checks and lists
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    calls: Option<u32>,
    #[command(flatten)]
    state: StateArgs,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    #[serde(flatten)]
    setting: Setting,
    database: String,
    ledger: String,
    clients: u32,
    bunkers: u32,
    figures: Vec<Figure>,
}

/// The controller that is measured, and its worker.
struct Bench {
    address: SocketAddr,
    key: String,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), scaibunker_controller::ControllerError>>,
    _worker: SimWorker,
    _data_dir: TempDir,
}

impl Bench {
    async fn start(state: &StateArgs) -> anyhow::Result<Self> {
        let data_dir = tempfile::tempdir().context("cannot make a directory for the bench")?;
        let config = ControllerConfig {
            rate_limits: RateLimits::OFF,
            ..ControllerConfig::new(data_dir.path().to_owned(), WORKER_TOKEN.to_owned())
        };
        let controller = Controller::open(state.apply(config)?).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(controller.serve(listener, shutdown.clone()));
        let worker = SimWorker::link(&format!("http://{address}"), WORKER_TOKEN, ENDLESS).await?;
        let key = std::fs::read_to_string(data_dir.path().join("admin.key"))?.trim().to_owned();
        Ok(Self { address, key, shutdown, serving, _worker: worker, _data_dir: data_dir })
    }

    async fn caller(&self) -> anyhow::Result<Caller> {
        Caller::connect(self.address, &self.key).await
    }

    /// Returns once a bunker can be made: the link is up a moment after the worker dialled.
    async fn ready(&self) -> anyhow::Result<()> {
        let mut caller = self.caller().await?;
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            match caller.pair(CREATE).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > limit => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        Ok(self.serving.await.context("the controller crashed")??)
    }
}

/// Measures and prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &ControlArgs, stop: Stop) -> Result<u8, Failure> {
    let output = global.output();
    let or =
        |given: Option<u32>, usual, quick| given.unwrap_or(if args.quick { quick } else { usual });
    let clients = or(args.clients, 32, 8);
    let bunkers = or(args.bunkers, 100_000, 500);
    let calls = or(args.calls, 1_000, 50);
    // A database and a ledger of their own share the machine's CPUs with the controller.
    let target = if args.state.database()?.is_some() { 1_000.0 } else { 1_500.0 };
    let bench = Bench::start(&args.state).await?;
    let progress = output.progress("measuring");
    let measured = tokio::select! {
        biased;
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        measured = measure(&bench, target, clients, bunkers, calls, &progress) => measured.map_err(Failure::from),
    };
    drop(progress);
    bench.stop().await?;
    let report = Report {
        bench: "control",
        setting: Setting::with_engine("simulated worker"),
        database: args.state.database()?.map_or("SQLite".to_owned(), |url| url.to_string()),
        ledger: args.state.redis()?.map_or("ledger in process".to_owned(), |url| url.to_string()),
        clients,
        bunkers,
        figures: measured?,
    };
    print(output, &report)?;
    let failed = report.figures.iter().any(Figure::has_failures);
    Ok(if failed { exit::FAILED } else { 0 })
}

async fn measure(
    bench: &Bench,
    target: f64,
    clients: u32,
    bunkers: u32,
    calls: u32,
    progress: &Progress,
) -> anyhow::Result<Vec<Figure>> {
    bench.ready().await?;
    progress.say("pairs of create and delete");
    let pairs = pairs(bench, clients, bunkers, target).await?;
    progress.say("checks");
    let checks = checks(bench, calls).await?;
    progress.say("lists");
    let lists = lists(bench, calls).await?;
    Ok([pairs, checks, lists].into_iter().flatten().map(Figure::finished).collect())
}

/// Throughput of each second, and how long a pair takes meanwhile.
async fn pairs(
    bench: &Bench,
    clients: u32,
    bunkers: u32,
    target: f64,
) -> anyhow::Result<Vec<Figure>> {
    let done = std::sync::Arc::new(AtomicU64::new(0));
    let mut work = JoinSet::new();
    for client in 0..clients {
        let share = bunkers / clients + u32::from(client < bunkers % clients);
        let (mut caller, done) = (bench.caller().await?, done.clone());
        work.spawn(async move {
            let mut times = Vec::with_capacity(share as usize);
            for _ in 0..share {
                let began = Instant::now();
                let pair = caller.pair(CREATE).await;
                times.push(pair.map(|()| began.elapsed()));
                done.fetch_add(1, Ordering::Relaxed);
            }
            times
        });
    }
    let mut rate = Figure::new("create + delete", Unit::PerSecond, Some(target));
    let mut time = Figure::new("one create + delete", Unit::Milliseconds, None);
    let (began, mut seconds) = (Instant::now(), tokio::time::interval(Duration::from_secs(1)));
    seconds.tick().await;
    let (mut last, mut last_at) = (0, began);
    while !work.is_empty() {
        tokio::select! {
            Some(ended) = work.join_next() => {
                for attempt in ended.context("a client of the bench crashed")? {
                    time.record(attempt.map(figure::time).map_err(|error| error.to_string()));
                }
            }
            _ = seconds.tick() => {
                let now = done.load(Ordering::Relaxed);
                let elapsed = last_at.elapsed().as_secs_f64();
                // The last clients end at different times: that second measures them, not the server.
                if work.len() == clients as usize {
                    rate.record(Ok((now - last) as f64 / elapsed));
                }
                (last, last_at) = (now, Instant::now());
            }
        }
    }
    let whole = f64::from(bunkers) / began.elapsed().as_secs_f64();
    let mut overall = Figure::new("create + delete, whole run", Unit::PerSecond, Some(target));
    overall.record(Ok(whole));
    Ok(vec![overall, rate, time])
}

/// A create that is refused by the last of all checks: it includes the way through HTTP.
async fn checks(bench: &Bench, calls: u32) -> anyhow::Result<Vec<Figure>> {
    let mut caller = bench.caller().await?;
    caller.cap_memory_of_one_bunker().await?;
    let mut figure = Figure::new("auth + permission + quota", Unit::Milliseconds, Some(1.0));
    for _ in 0..calls {
        let began = Instant::now();
        let (status, _) = caller.call(Method::POST, "/bunkers", CREATE_TOO_LARGE).await?;
        let time = began.elapsed();
        let refused = status == StatusCode::TOO_MANY_REQUESTS;
        figure.record(if refused { Ok(figure::time(time)) } else { Err(status.to_string()) });
    }
    Ok(vec![figure])
}

async fn lists(bench: &Bench, calls: u32) -> anyhow::Result<Vec<Figure>> {
    let mut caller = bench.caller().await?;
    let mut figure = Figure::new("list of 50", Unit::Milliseconds, Some(10.0));
    for _ in 0..calls {
        let began = Instant::now();
        let (status, _) = caller.call(Method::GET, "/bunkers?limit=50", "").await?;
        let time = began.elapsed();
        let listed = status == StatusCode::OK;
        figure.record(if listed { Ok(figure::time(time)) } else { Err(status.to_string()) });
    }
    Ok(vec![figure])
}

fn print(output: crate::output::Output, report: &Report) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(report);
    }
    let Report { setting, database, ledger, clients, bunkers, figures: measured, .. } = report;
    output.line(&setting.line())?;
    output.line(&format!("{database}, {ledger}; {clients} connections, {bunkers} bunkers"))?;
    output.table(&figures(measured))
}

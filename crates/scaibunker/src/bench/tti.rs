//! `scaibunker bench tti`: time to interactive, from the create call to a command's answer.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use comfy_table::Table;
use scaibunker_api::{
    bunker::{BunkerStatus, CreateBunker},
    ids::BunkerId,
};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    BenchBunkerArgs,
    fleet::Fleet,
    milliseconds,
    report::{self, Header, shown, shown_failures},
    stats::Summary,
};
use crate::{
    cli::GlobalArgs,
    client::{Client, ClientError},
    commands::exec,
    exit::{self, Failure},
    output::{Output, Progress},
    signals::Stop,
    tables::table,
};

/// Time from a create call to the answer of the first command
///
/// From sending `POST /bunkers?wait=true` until `echo ok` in the bunker has been answered, over
/// kept-alive connections of one process. Ending the bunker is not part of the time. Percentiles
/// are nearest-rank: values that were measured.
#[derive(Debug, Args)]
pub struct TtiArgs {
    #[command(flatten)]
    bunker: BenchBunkerArgs,
    /// Bunkers for each mode
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// How the creates follow each other
    #[arg(long, value_enum, default_value_t = ModeArg::All)]
    mode: ModeArg,
    /// Time between two starts of the staggered mode
    #[arg(long, value_name = "MS", default_value_t = 200)]
    stagger_ms: u64,
    /// Rest after each bunker of the sequential mode, which lets the warm pool fill up
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pause_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// One after the other, each ended before the next
    Sequential,
    /// One every --stagger-ms, however long the others take
    Staggered,
    /// All at once, ended when all have answered
    Burst,
    /// Each of these, in this order
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Sequential,
    Staggered,
    Burst,
}

impl ModeArg {
    fn modes(self) -> &'static [Mode] {
        match self {
            Self::Sequential => &[Mode::Sequential],
            Self::Staggered => &[Mode::Staggered],
            Self::Burst => &[Mode::Burst],
            Self::All => &[Mode::Sequential, Mode::Staggered, Mode::Burst],
        }
    }
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    stagger_ms: u64,
    pause_ms: u64,
    runs: Vec<Run>,
}

/// The figures of one mode. The summaries are of the attempts that succeeded.
#[derive(Debug, Serialize)]
struct Run {
    mode: Mode,
    count: usize,
    succeeded: usize,
    /// Failed attempts by error code.
    failures: BTreeMap<String, usize>,
    tti_ms: Option<Summary>,
    create_ms: Option<Summary>,
    exec_ms: Option<Summary>,
    /// From the first create to the last answer.
    wall_ms: f64,
}

/// One attempt.
#[derive(Debug)]
struct Attempt {
    ended: Instant,
    /// The times, or the code of the failure.
    result: Result<Times, String>,
    /// The bunker that is still to be ended.
    left: Option<BunkerId>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    create: Duration,
    exec: Duration,
}

/// Everything an attempt needs.
#[derive(Debug)]
struct Bench {
    client: Client,
    fleet: Fleet,
    request: CreateBunker,
    stop: Stop,
}

/// Measures, ends all bunkers, prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &TtiArgs, stop: Stop) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let header = Header::of("tti", &client, &args.bunker).await;
    let bench = Arc::new(Bench {
        fleet: Fleet::new(client.clone()),
        client,
        request: args.bunker.request(),
        stop,
    });
    let mut runs = Vec::new();
    for &mode in args.mode.modes() {
        runs.push(bench.measure(mode, args, output).await);
        bench.fleet.end_all().await?;
        if let Some(signal) = bench.stop.signal() {
            return Err(Failure::Stopped(signal));
        }
    }
    let failed = runs.iter().any(|run| run.succeeded < run.count);
    let report = Report { header, stagger_ms: args.stagger_ms, pause_ms: args.pause_ms, runs };
    let about = format!(
        "; staggered by {} ms, sequential with a pause of {} ms; times in ms",
        args.stagger_ms, args.pause_ms
    );
    report::print(output, &report, &report.header, &about, &report.table())?;
    Ok(if failed { exit::FAILED } else { 0 })
}

impl Bench {
    async fn measure(self: &Arc<Self>, mode: Mode, args: &TtiArgs, output: Output) -> Run {
        let progress = output.counted_progress(mode.as_str(), args.count.into());
        let begun = Instant::now();
        let attempts = match mode {
            Mode::Sequential => self.sequential(args, &progress).await,
            Mode::Staggered => {
                self.concurrent(args.count, Duration::from_millis(args.stagger_ms), &progress).await
            }
            Mode::Burst => self.concurrent(args.count, Duration::ZERO, &progress).await,
        };
        Run::of(mode, begun, &attempts)
    }

    async fn sequential(&self, args: &TtiArgs, progress: &Progress) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for _ in 0..args.count {
            let attempt = self.attempt().await;
            self.end(&attempt).await;
            attempts.push(attempt);
            progress.step();
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(args.pause_ms)) => {}
                _ = self.stop.requested() => {}
            }
            if self.stop.signal().is_some() {
                break;
            }
        }
        attempts
    }

    /// Starts an attempt every `interval`; without one all start at once, and none is ended
    /// before all have answered.
    async fn concurrent(
        self: &Arc<Self>,
        count: u32,
        interval: Duration,
        progress: &Progress,
    ) -> Vec<Attempt> {
        let mut tasks = JoinSet::new();
        let begun = tokio::time::Instant::now();
        for number in 0..count {
            tokio::select! {
                () = tokio::time::sleep_until(begun + interval * number) => {}
                _ = self.stop.requested() => break,
            }
            let bench = Arc::clone(self);
            tasks.spawn(async move {
                let attempt = bench.attempt().await;
                if !interval.is_zero() {
                    bench.end(&attempt).await;
                }
                attempt
            });
        }
        let mut attempts = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            attempts.extend(joined);
            progress.step();
        }
        attempts
    }

    async fn attempt(&self) -> Attempt {
        let started = Instant::now();
        let created = self.fleet.create(&self.request).await;
        let create = started.elapsed();
        let (result, left) = match created {
            Err(error) => (Err(error.code().to_owned()), None),
            Ok(created) if created.data.status != BunkerStatus::Running => {
                (Err(format!("bunker {}", created.data.status.as_str())), Some(created.data.id))
            }
            Ok(created) => {
                let id = created.data.id;
                let answered = tokio::select! {
                    biased;
                    _ = self.stop.requested() => Err("stopped".to_owned()),
                    answered = self.echo(id) => answered,
                };
                let exec = started.elapsed().saturating_sub(create);
                (answered.map(|()| Times { create, exec }), Some(id))
            }
        };
        Attempt { ended: Instant::now(), result, left }
    }

    async fn echo(&self, id: BunkerId) -> Result<(), String> {
        let request = exec::request(vec!["echo".to_owned(), "ok".to_owned()]);
        let code = |error: ClientError| error.code().to_owned();
        let answer = self.client.exec(id, &request).await.map_err(code)?;
        if answer.outcome.exit_code == 0 && answer.stdout == "ok\n" {
            Ok(())
        } else {
            Err("wrong output".to_owned())
        }
    }

    /// A failure here is no part of the figures: the bunker stays in the fleet, whose end tells.
    async fn end(&self, attempt: &Attempt) {
        if let Some(id) = attempt.left {
            let _ = self.fleet.end(id).await;
        }
    }
}

impl Run {
    fn of(mode: Mode, begun: Instant, attempts: &[Attempt]) -> Self {
        let mut failures = BTreeMap::new();
        let mut times = Vec::new();
        for attempt in attempts {
            match &attempt.result {
                Ok(measured) => times.push(*measured),
                Err(code) => *failures.entry(code.clone()).or_default() += 1,
            }
        }
        let last = attempts.iter().map(|attempt| attempt.ended).max().unwrap_or(begun);
        let summary = |figure: fn(&Times) -> Duration| {
            Summary::of(times.iter().map(|times| milliseconds(figure(times))))
        };
        Self {
            mode,
            count: attempts.len(),
            succeeded: times.len(),
            failures,
            tti_ms: summary(|times| times.create + times.exec),
            create_ms: summary(|times| times.create),
            exec_ms: summary(|times| times.exec),
            wall_ms: milliseconds(last.saturating_duration_since(begun)),
        }
    }
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Staggered => "staggered",
            Self::Burst => "burst",
        }
    }
}

impl Report<'_> {
    fn table(&self) -> Table {
        let header = [
            "MODE", "OK", "MIN", "MEDIAN", "P95", "P99", "MAX", "CREATE", "EXEC", "WALL",
            "FAILURES",
        ];
        table(header, self.runs.iter().map(Run::row))
    }
}

impl Run {
    fn row(&self) -> [String; 11] {
        [
            self.mode.as_str().to_owned(),
            format!("{}/{}", self.succeeded, self.count),
            shown(self.tti_ms, |tti| tti.min),
            shown(self.tti_ms, |tti| tti.median),
            shown(self.tti_ms, |tti| tti.p95),
            shown(self.tti_ms, |tti| tti.p99),
            shown(self.tti_ms, |tti| tti.max),
            shown(self.create_ms, |create| create.median),
            shown(self.exec_ms, |exec| exec.median),
            format!("{:.0}", self.wall_ms),
            shown_failures(&self.failures),
        ]
    }
}

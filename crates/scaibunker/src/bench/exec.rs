//! `scaibunker bench exec`: the round trip of a command that does nothing.

use std::{collections::BTreeMap, time::Instant};

use clap::Args;
use scaibunker_api::ids::BunkerId;
use serde::Serialize;

use super::{BenchBunkerArgs, machine::Setting, milliseconds, stats::Summary};
use crate::{
    cli::GlobalArgs,
    client::Client,
    commands::exec,
    exit::{self, Failure},
    launch,
    output::{Output, Progress},
    signals::Stop,
    tables::table,
};

/// Round trip of `true`
///
/// One after the other in one bunker, over one kept-alive connection.
#[derive(Debug, Args)]
pub struct ExecBenchArgs {
    #[command(flatten)]
    bunker: BenchBunkerArgs,
    /// Commands to run
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    bench: &'static str,
    #[serde(flatten)]
    setting: Setting,
    image: &'a str,
    memory_mb: u32,
    count: u32,
    succeeded: usize,
    /// Failed commands by error code.
    failures: BTreeMap<String, usize>,
    exec_ms: Option<Summary>,
}

/// Measures, ends the bunker, prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &ExecBenchArgs, stop: Stop) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let setting = Setting::of(&client).await;
    let bunker = launch::launch(&client, &args.bunker.request(), output, &stop).await?;
    let progress = output.counted_progress("exec", args.count.into());
    let measured = tokio::select! {
        biased;
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        measured = measure(&client, bunker.id, args.count, &progress) => Ok(measured),
    };
    drop(progress);
    launch::discard(&client, bunker.id).await;
    let (times_ms, failures) = measured?;
    let report = Report {
        bench: "exec",
        setting,
        image: &args.bunker.image,
        memory_mb: args.bunker.memory,
        count: args.count,
        succeeded: times_ms.len(),
        exec_ms: Summary::of(times_ms),
        failures,
    };
    if output.is_json() {
        output.document(&report)?
    } else {
        report.print(output)?
    }
    Ok(if report.failures.is_empty() { 0 } else { exit::FAILED })
}

async fn measure(
    client: &Client,
    id: BunkerId,
    count: u32,
    progress: &Progress,
) -> (Vec<f64>, BTreeMap<String, usize>) {
    let request = exec::request(vec!["true".to_owned()]);
    let (mut times_ms, mut failures) = (Vec::new(), BTreeMap::new());
    for _ in 0..count {
        let started = Instant::now();
        let code = match client.exec(id, &request).await {
            Ok(answer) if answer.outcome.exit_code == 0 => {
                times_ms.push(milliseconds(started.elapsed()));
                None
            }
            Ok(answer) => Some(format!("exit code {}", answer.outcome.exit_code)),
            Err(error) => Some(error.code().to_owned()),
        };
        if let Some(code) = code {
            *failures.entry(code).or_default() += 1;
        }
        progress.step();
    }
    (times_ms, failures)
}

impl Report<'_> {
    fn print(&self, output: Output) -> Result<(), Failure> {
        output.line(&self.setting.line())?;
        output.line(&format!("{}, {} MiB; times in ms", self.image, self.memory_mb))?;
        let shown = |figure: fn(Summary) -> f64| {
            self.exec_ms.map_or_else(|| "-".to_owned(), |summary| format!("{:.1}", figure(summary)))
        };
        let failures: Vec<_> =
            self.failures.iter().map(|(code, count)| format!("{count} × {code}")).collect();
        let row = [
            format!("{}/{}", self.succeeded, self.count),
            shown(|exec| exec.min),
            shown(|exec| exec.median),
            shown(|exec| exec.p95),
            shown(|exec| exec.p99),
            shown(|exec| exec.max),
            if failures.is_empty() { "0".to_owned() } else { failures.join(", ") },
        ];
        output.table(&table(["OK", "MIN", "MEDIAN", "P95", "P99", "MAX", "FAILURES"], [row]))
    }
}

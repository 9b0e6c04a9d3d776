//! `scaibunker bench exec`: commands, their output, and shells.

use std::time::Instant;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use scaibunker_api::{exec::ExecRequest, ids::BunkerId, worker::ResizeTerminal};
use serde::Serialize;

use super::{
    BenchBunkerArgs,
    figure::{self, Figure, Unit, code},
    fleet::Fleet,
    report::{self, Header},
};
use crate::{
    cli::GlobalArgs,
    client::{Client, ExecEvent, ShellEvent, ShellTarget},
    commands::exec,
    exit::{self, Failure},
    output::Progress,
    signals::Stop,
};

/// Writes 1 MiB of text lines to a file that is then printed as often as the first argument says.
const MAKE_TEXT: &str = "yes 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopq \
                         | head -c 1048576 >/tmp/scaibunker-bench";
const PRINT_TEXT: &str = "a=; for i in $(seq $1); do a=\"$a /tmp/scaibunker-bench\"; done; cat $a";
const PRINT_ZEROS: &str = "dd if=/dev/zero bs=64k count=$(($1 * 16)) 2>/dev/null";

const MIB: u64 = 1024 * 1024;

/// Round trips, throughput, streamed output and keystrokes
///
/// Round trips of `true` one after the other in one bunker, then in several bunkers at once; output
/// as server-sent events, of text and of zero bytes, and the same text thrown away inside the
/// bunker; and the time until a shell shows a key.
#[derive(Debug, Args)]
pub struct ExecBenchArgs {
    #[command(flatten)]
    bunker: BenchBunkerArgs,
    /// A short run, to see that it works [default counts: 200, 8, 100, 256 MiB, 3, 300]
    #[arg(long)]
    quick: bool,
    /// Round trips one after the other
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: Option<u32>,
    /// Bunkers at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    bunkers: Option<u32>,
    /// Round trips in each of them
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count_each: Option<u32>,
    /// MiB of output at a time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    output_mb: Option<u32>,
    /// How often output is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    outputs: Option<u32>,
    /// Keys typed into the shell; more than a line holds are not shown
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    keys: Option<u32>,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    bunkers: u32,
    output_mb: u32,
    figures: Vec<Figure>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Amounts {
    count: u32,
    bunkers: u32,
    count_each: u32,
    output_mb: u32,
    outputs: u32,
    keys: u32,
}

impl ExecBenchArgs {
    fn amounts(&self) -> Amounts {
        let or = |given: Option<u32>, usual, quick| {
            given.unwrap_or(if self.quick { quick } else { usual })
        };
        Amounts {
            count: or(self.count, 200, 10),
            bunkers: or(self.bunkers, 8, 2),
            count_each: or(self.count_each, 100, 5),
            output_mb: or(self.output_mb, 256, 4),
            outputs: or(self.outputs, 3, 1),
            keys: or(self.keys, 300, 10),
        }
    }
}

/// Measures, ends the bunkers, prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &ExecBenchArgs, stop: Stop) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let amounts = args.amounts();
    let header = Header::of("exec", &client, &args.bunker).await;
    let fleet = Fleet::new(client.clone());
    let progress = output.progress("starting bunkers");
    let measured = async {
        let ids = fleet.create_running(&args.bunker.request(), amounts.bunkers, &stop).await?;
        tokio::select! {
            biased;
            signal = stop.requested() => Err(Failure::Stopped(signal)),
            figures = measure(&client, &ids, amounts, &progress) => Ok(figures),
        }
    };
    let measured = measured.await;
    drop(progress);
    fleet.end_all().await?;
    let report = Report {
        header,
        bunkers: amounts.bunkers,
        output_mb: amounts.output_mb,
        figures: measured?,
    };
    let table = figure::figures(&report.figures);
    let about = format!("; {} bunkers at once, output of {} MiB", report.bunkers, report.output_mb);
    report::print(output, &report, &report.header, &about, &table)?;
    let failed = report.figures.iter().any(Figure::has_failures);
    Ok(if failed { exit::FAILED } else { 0 })
}

async fn measure(
    client: &Client,
    ids: &[BunkerId],
    amounts: Amounts,
    progress: &Progress,
) -> Vec<Figure> {
    let Some(&id) = ids.first() else { return Vec::new() };
    let mut figures = Vec::new();

    progress.say("round trips");
    let mut round_trip = Figure::new("exec of `true`", Unit::Milliseconds, Some(12.0));
    for _ in 0..amounts.count {
        round_trip.record(one_exec(client, id).await);
    }
    figures.push(round_trip.finished());

    progress.say("round trips in several bunkers at once");
    figures.push(concurrent(client, ids, amounts.count_each).await);

    let (outputs, output_mb) = (amounts.outputs, amounts.output_mb);
    progress.say("output");
    let made = client.exec(id, &sh(MAKE_TEXT, output_mb)).await;
    let made = made.map(drop).map_err(code);
    for (name, script, target) in [
        ("streamed text", PRINT_TEXT, Some(60.0)),
        ("streamed zero bytes", PRINT_ZEROS, Some(60.0)),
    ] {
        let mut figure = Figure::new(name, Unit::Megabytes, target);
        for _ in 0..outputs {
            figure.record(match &made {
                Ok(()) => streamed(client, id, script, output_mb).await,
                Err(code) => Err(code.clone()),
            });
        }
        figures.push(figure.finished());
    }
    let mut alone = Figure::new("the text, thrown away in the bunker", Unit::Megabytes, None);
    for _ in 0..outputs {
        alone.record(thrown_away(client, id, output_mb).await);
    }
    figures.push(alone.finished());

    progress.say("keys");
    let mut echo = Figure::new("echo of a key in a shell", Unit::Milliseconds, Some(5.0));
    if let Err(code) = keys(client, id, amounts.keys, &mut echo).await {
        echo.record(Err(code));
    }
    figures.push(echo.finished());
    figures
}

/// Milliseconds of one round trip.
async fn one_exec(client: &Client, id: BunkerId) -> Result<f64, String> {
    let started = Instant::now();
    let answer = client.exec(id, &exec::request(vec!["true".to_owned()])).await.map_err(code)?;
    succeeded(answer.outcome.exit_code)?;
    Ok(figure::time(started.elapsed()))
}

/// Round trips a second over all bunkers, each of which has one command at a time.
async fn concurrent(client: &Client, ids: &[BunkerId], count_each: u32) -> Figure {
    let mut figure = Figure::new("exec of `true`, all bunkers", Unit::PerSecond, Some(150.0));
    let begun = Instant::now();
    let mut failed = 0;
    let attempts = ids.iter().map(|&id| async move {
        let mut attempts = Vec::new();
        for _ in 0..count_each {
            attempts.push(one_exec(client, id).await);
        }
        attempts
    });
    let attempts: Vec<_> = stream::iter(attempts).buffer_unordered(ids.len()).collect().await;
    for attempt in attempts.into_iter().flatten() {
        if let Err(code) = attempt {
            figure.record(Err(code));
            failed += 1;
        }
    }
    let succeeded = ids.len() * count_each as usize - failed;
    if succeeded > 0 {
        let rate = succeeded as f64 / begun.elapsed().as_secs_f64().max(f64::EPSILON);
        figure.record(Ok((rate * 10.0).round() / 10.0));
    }
    figure.finished()
}

/// A script for `sh`, which gets the MiB to print as its argument.
fn sh(script: &str, output_mb: u32) -> ExecRequest {
    let words = ["sh", "-c", script, "sh", &output_mb.to_string()];
    ExecRequest { timeout_s: 600, ..exec::request(words.map(str::to_owned).to_vec()) }
}

/// Rate of output from the call to the command's end.
async fn streamed(
    client: &Client,
    id: BunkerId,
    script: &str,
    output_mb: u32,
) -> Result<f64, String> {
    let started = Instant::now();
    let request = ExecRequest { stream: true, ..sh(script, output_mb) };
    let mut events = client.exec_stream(id, &request).await.map_err(code)?;
    let mut bytes = 0;
    loop {
        match events.next().await.map_err(code)? {
            Some(ExecEvent::Stdout(piece)) => bytes += piece.len() as u64,
            Some(ExecEvent::Exit(outcome)) => {
                let time = started.elapsed();
                succeeded(outcome.exit_code)?;
                if bytes != u64::from(output_mb) * MIB {
                    return Err("wrong output".to_owned());
                }
                return Ok(figure::rate(bytes, time));
            }
            Some(_) => {}
            None => return Err("no end".to_owned()),
        }
    }
}

/// What the bunker alone makes of it: the same command, without the way to here.
async fn thrown_away(client: &Client, id: BunkerId, output_mb: u32) -> Result<f64, String> {
    let started = Instant::now();
    let script = format!("({PRINT_TEXT}) >/dev/null");
    let answer = client.exec(id, &sh(&script, output_mb)).await.map_err(code)?;
    succeeded(answer.outcome.exit_code)?;
    Ok(figure::rate(u64::from(output_mb) * MIB, started.elapsed()))
}

fn succeeded(exit_code: i32) -> Result<(), String> {
    if exit_code == 0 { Ok(()) } else { Err(format!("exit code {exit_code}")) }
}

/// Types keys, each once the one before is shown by the terminal of a program that waits for a
/// whole line.
async fn keys(client: &Client, id: BunkerId, count: u32, echo: &mut Figure) -> Result<(), String> {
    let target = ShellTarget {
        bunker: id,
        command: Some("exec cat".to_owned()),
        user: None,
        shell_id: None,
    };
    let size = ResizeTerminal { cols: 200, rows: 50 };
    let (mut sender, mut receiver) = client.shell(&target, size).await.map_err(code)?;
    while !matches!(receiver.next().await.map_err(code)?, ShellEvent::Ready(_)) {}
    for _ in 0..count {
        let typed = Instant::now();
        sender.input("a".into()).await.map_err(code)?;
        loop {
            match receiver.next().await.map_err(code)? {
                ShellEvent::Output(_) => break,
                ShellEvent::Exit(code) => return Err(format!("exit code {code}")),
                ShellEvent::Ready(_) => {}
            }
        }
        echo.record(Ok(figure::time(typed.elapsed())));
    }
    // Ctrl-D passes the line on; the second one ends the program, and with it the shell.
    sender.input("\x04\x04".into()).await.map_err(code)
}

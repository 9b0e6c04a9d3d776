//! `scaibunker bench gateway`: what the egress gateway carries, and what it costs.
//!
//! A bunker's VM under emulation is slower than its gateway, so programs stand in for bunkers: each in
//! the network that a bunker would have, with the rules and sockets of one. The gateway is the real one,
//! in a process of its own.

mod client;
mod lab;
mod server;

use std::{thread, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::sync::oneshot;

use self::{client::Client, lab::Lab};
use super::{
    allow_many_files,
    figure::{Figure, Unit, figures},
    machine::Setting,
};
use crate::{
    cli::GlobalArgs,
    exit::{self, Failure},
    output::Progress,
    signals::Stop,
};

/// The rules of a bunker's network let through 1,000 connections a second and the gateway 1,024 at a
/// time, so it takes some to show what the gateway can do.
const BUNKERS: u32 = 12;
/// Files that the bench and the gateway have open apart from connections, amply.
const OTHER_FILES: u64 = 600;
/// Round trips that are made one after the other before it is the other way's turn.
const TURN: u32 = 20;
const CAPS_MBIT: [u32; 3] = [1, 20, 200];

/// The egress gateway alone: throughput, connections, memory, bandwidth caps
///
/// Needs root, and no server: programs in network namespaces of the bench's own stand in for bunkers and
/// for the world. They share the machine's cores with the gateway. A connection's time is that until
/// the first byte has come back, through the gateway and on a cable to the same server in turns.
#[derive(Debug, Args)]
pub struct GatewayBenchArgs {
    /// A short run, to see that it works [default: 2000 round trips, 10000 open connections or as many
    /// as the limit of open files has room for, 5 s for each of the others]
    #[arg(long)]
    quick: bool,
}

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    round_trips: u32,
    open: u32,
    time: Duration,
}

impl Size {
    const FULL: Self = Self { round_trips: 2_000, open: 10_000, time: Duration::from_secs(5) };
    const QUICK: Self = Self { round_trips: 100, open: 480, time: Duration::from_millis(500) };
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    #[serde(flatten)]
    setting: Setting,
    bunkers: u32,
    /// As many as were open when the memory was looked at.
    open_connections: u32,
    figures: Vec<Figure>,
}

/// Measures and prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &GatewayBenchArgs, stop: Stop) -> Result<u8, Failure> {
    let output = global.output();
    let size = if args.quick { Size::QUICK } else { Size::FULL };
    // Each has an end in a client and one in the server, which are this process, and two in the gateway.
    let room = allow_many_files().saturating_sub(OTHER_FILES) / 2;
    let size = Size { open: size.open.min(u32::try_from(room).unwrap_or(u32::MAX)), ..size };
    let progress = output.progress("making networks");
    let measured = tokio::select! {
        biased;
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        measured = in_lab(size, progress) => measured.map_err(Failure::from),
    };
    let report = Report {
        bench: "gateway",
        setting: Setting::with_engine("no engine"),
        bunkers: BUNKERS,
        open_connections: size.open,
        figures: measured?,
    };
    if output.is_json() {
        output.document(&report)?;
    } else {
        output.line(&report.setting.line())?;
        let open = size.open;
        output.line(&format!(
            "programs in the place of {BUNKERS} bunkers, {open} connections open"
        ))?;
        output.table(&figures(&report.figures))?;
    }
    let failed = report.figures.iter().any(Figure::has_failures);
    Ok(if failed { exit::FAILED } else { 0 })
}

/// Everything in it blocks, and belongs to namespaces: none of the runtime's threads shall.
async fn in_lab(size: Size, progress: Progress) -> anyhow::Result<Vec<Figure>> {
    let (done, measured) = oneshot::channel();
    // Not one of the runtime's: the process ends without waiting for it when the bench is stopped.
    thread::Builder::new().name("bench lab".to_owned()).spawn(move || {
        // Nobody waits for a bench that was stopped.
        let _ = done.send(Lab::enter(BUNKERS, |lab| measure(lab, size, &progress)));
    })?;
    measured.await.context("the bench crashed")?
}

fn measure(lab: &Lab, size: Size, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let bunker = lab.serve(0, None)?;
    progress.say("connecting, with and without the gateway");
    let mut all = connects(lab, &bunker, size)?;
    for (name, upload) in [("sent", true), ("received", false)] {
        progress.say("one connection, as fast as it goes");
        let mut throughput = Figure::new(name, Unit::Megabits, Some(1_000.0));
        throughput.record(bunker.stream(size.time, upload).map_err(|error| error.to_string()));
        all.push(throughput);
    }
    let mut others = vec![bunker];
    for number in 1..BUNKERS {
        others.push(lab.serve(number, None)?);
    }
    progress.say("connecting again and again");
    let mut rate = Figure::new("connections", Unit::PerSecond, Some(2_000.0));
    rate.record(Ok(client::connections_per_second(&others, size.time)?));
    all.push(rate);

    progress.say("keeping connections open");
    let mut memory = Figure::new("memory, idle", Unit::Mebibytes, None);
    memory.record(Ok(lab.gateway_memory_mib()?));
    let open = client::open_on_each(&others, size.open / BUNKERS)?;
    let mut memory_open = Figure::new("memory, connections open", Unit::Mebibytes, Some(150.0));
    memory_open.record(Ok(lab.gateway_memory_mib()?));
    drop(open);
    all.extend([memory, memory_open]);

    for (number, mbit) in (BUNKERS..).zip(CAPS_MBIT) {
        progress.say(&format!("sending at {mbit} Mbit/s"));
        all.push(cap(lab, number, mbit, size)?);
    }
    Ok(all.into_iter().map(Figure::finished).collect())
}

/// Round trips on new connections, and what the gateway adds to their median.
fn connects(lab: &Lab, bunker: &Client<'_>, size: Size) -> anyhow::Result<Vec<Figure>> {
    let direct = lab.direct();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..size.round_trips / TURN {
        for (times, client) in times.iter_mut().zip([&direct, bunker]) {
            times.extend(client.round_trips(TURN)?);
        }
    }
    let names = ["connect and a byte back, cable", "the same, gateway"];
    let [direct, through] = [0, 1].map(|way: usize| {
        let mut figure = Figure::new(names[way], Unit::Microseconds, None);
        times[way].iter().for_each(|&time| figure.record(Ok(time)));
        figure
    });
    let median = |times: &[f64]| super::stats::Summary::of(times.iter().copied());
    let medians = median(&times[0]).zip(median(&times[1])).context("nothing was measured")?;
    let mut added = Figure::new("added", Unit::Microseconds, Some(300.0));
    added.record(Ok(medians.1.median - medians.0.median));
    Ok(vec![direct, through, added])
}

/// How far what a capped bunker sends is from its cap.
fn cap(lab: &Lab, number: u32, mbit: u32, size: Size) -> anyhow::Result<Figure> {
    let name = match mbit {
        1 => "off a cap of 1 Mbit/s",
        20 => "off a cap of 20 Mbit/s",
        _ => "off a cap of 200 Mbit/s",
    };
    let sent = lab.serve(number, Some(mbit))?.stream(size.time, true)?;
    let mut off = Figure::new(name, Unit::Percent, Some(5.0));
    off.record(Ok(100.0 * (sent - f64::from(mbit)).abs() / f64::from(mbit)));
    Ok(off)
}

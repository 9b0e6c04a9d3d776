//! `scaibunker bench density`: the host's memory that an idle bunker takes.
//!
//! Read from `/proc` of the machine that runs the bunkers, so it has to run there, as the user
//! that runs the server or as root.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use comfy_table::Table;
use scaibunker_api::ids::BunkerId;
use serde::{Deserialize, Serialize};

use super::{
    BenchBunkerArgs,
    fleet::Fleet,
    machine::field,
    report::{self, Header, shown},
    stats::Summary,
};
use crate::{cli::GlobalArgs, exit::Failure, output::Output, signals::Stop, tables::table};

/// Time between two readings.
const READING_INTERVAL: Duration = Duration::from_secs(2);

/// Readings after which memory that still changes is reported as it is.
const MAX_READINGS: u32 = 30;

/// Two readings this close to each other, in KiB a bunker, count as settled.
const SETTLED_KB: u64 = 64;

/// Memory of idle bunkers on the host
///
/// The proportional set size (PSS) of each bunker's VMM process, once it has stopped changing.
/// Runs on the machine of the bunkers, as root or as the user of the server.
#[derive(Debug, Args)]
pub struct DensityArgs {
    #[command(flatten)]
    bunker: BenchBunkerArgs,
    /// Bunkers to run side by side
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    count: u32,
    /// Bunkers whose process was found.
    measured: usize,
    /// Whether the memory had stopped changing.
    settled: bool,
    pss_mb: Option<Summary>,
    total_pss_mb: f64,
}

/// Measures, ends the bunkers, prints.
pub async fn run(global: &GlobalArgs, args: &DensityArgs, stop: Stop) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let vms_dir = global.data_dir()?.join("worker/vms");
    let header = Header::of("density", &client, &args.bunker).await;
    let fleet = Fleet::new(client);
    let measured = measure(&fleet, args, &vms_dir, output, &stop).await;
    fleet.end_all().await?;
    let Measured { pss_kb, settled } = measured?;
    let total_kb: u64 = pss_kb.values().sum();
    let report = Report {
        header,
        count: args.count,
        measured: pss_kb.len(),
        settled,
        pss_mb: Summary::of(pss_kb.into_values().map(mebibytes)),
        total_pss_mb: mebibytes(total_kb),
    };
    let state = if report.settled { "settled" } else { "still changing" };
    let about = format!(", idle; PSS a bunker in MiB, {state}");
    report::print(output, &report, &report.header, &about, &report.table())?;
    Ok(0)
}

struct Measured {
    pss_kb: BTreeMap<BunkerId, u64>,
    settled: bool,
}

async fn measure(
    fleet: &Fleet,
    args: &DensityArgs,
    vms_dir: &Path,
    output: Output,
    stop: &Stop,
) -> Result<Measured, Failure> {
    let progress = output.progress("starting bunkers");
    let request = args.bunker.request();
    let ids = fleet.create_running(&request, args.count, stop).await?.into_iter().collect();
    progress.say("waiting for their memory to settle");
    let mut before = None;
    for _ in 0..MAX_READINGS {
        let pss_kb = pss_of(&ids, vms_dir)?;
        let total: u64 = pss_kb.values().sum();
        let margin = SETTLED_KB * ids.len() as u64;
        if before.replace(total).is_some_and(|before| before.abs_diff(total) <= margin) {
            return Ok(Measured { pss_kb, settled: true });
        }
        tokio::select! {
            () = tokio::time::sleep(READING_INTERVAL) => {}
            signal = stop.requested() => return Err(Failure::Stopped(signal)),
        }
    }
    Ok(Measured { pss_kb: pss_of(&ids, vms_dir)?, settled: false })
}

/// PSS in KiB of the VMM of each bunker of `ids`. A VM belongs to a bunker when its record says
/// so, and a process to a VM when its command line names it.
fn pss_of(ids: &BTreeSet<BunkerId>, vms_dir: &Path) -> anyhow::Result<BTreeMap<BunkerId, u64>> {
    let owners = owners(vms_dir).with_context(|| {
        format!("cannot read {}; give the server's --data-dir", vms_dir.display())
    })?;
    let mut pss_kb = BTreeMap::new();
    let mut unreadable = None;
    for (process, vm_name) in named_processes().context("cannot read /proc")? {
        let Some(id) = owners.get(&vm_name).filter(|id| ids.contains(id)) else { continue };
        match fs::read_to_string(format!("/proc/{process}/smaps_rollup")) {
            Ok(rollup) => *pss_kb.entry(*id).or_default() += pss(&rollup).unwrap_or(0),
            Err(error) => unreadable = Some(error),
        }
    }
    match (pss_kb.is_empty(), unreadable) {
        (false, _) => Ok(pss_kb),
        (true, Some(error)) => {
            Err(anyhow!("cannot read the memory of the VMM processes: {error}; run this as root"))
        }
        (true, None) => Err(anyhow!(
            "none of the bunkers runs on this machine with {}; run this where the worker is, and \
             give the server's --data-dir",
            vms_dir.display()
        )),
    }
}

/// What of a VM's record is of interest here.
#[derive(Debug, Deserialize)]
struct VmRecord {
    claim: Option<Claim>,
}

#[derive(Debug, Deserialize)]
struct Claim {
    bunker_id: BunkerId,
}

/// The bunker of each VM that has one, by the name of the VM's directory.
fn owners(vms_dir: &Path) -> io::Result<BTreeMap<String, BunkerId>> {
    let mut owners = BTreeMap::new();
    for entry in fs::read_dir(vms_dir)? {
        let entry = entry?;
        // VMs come and go meanwhile, and some have no bunker yet.
        let record = fs::read(entry.path().join("record.json"))
            .ok()
            .and_then(|json| serde_json::from_slice::<VmRecord>(&json).ok());
        if let (Some(claim), Ok(name)) =
            (record.and_then(|record| record.claim), entry.file_name().into_string())
        {
            owners.insert(name, claim.bunker_id);
        }
    }
    Ok(owners)
}

/// The processes whose command line has `-name scaibunker-<VM>`, with the VM's name.
fn named_processes() -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let command_line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        found.extend(vm_name(&command_line).map(|name| (process, name)));
    }
    Ok(found)
}

fn vm_name(command_line: &[u8]) -> Option<String> {
    let mut arguments = command_line.split(|&byte| byte == 0);
    arguments.find(|&argument| argument == b"-name")?;
    let name = std::str::from_utf8(arguments.next()?).ok()?;
    name.split(',').next()?.strip_prefix("scaibunker-").map(str::to_owned)
}

fn pss(rollup: &str) -> Option<u64> {
    field(rollup, "Pss")?.split_whitespace().next()?.parse().ok()
}

fn mebibytes(kb: u64) -> f64 {
    (kb as f64 / 1024.0 * 100.0).round() / 100.0
}

impl Report<'_> {
    fn table(&self) -> Table {
        let row = [
            format!("{}/{}", self.measured, self.count),
            shown(self.pss_mb, |pss| pss.min),
            shown(self.pss_mb, |pss| pss.median),
            shown(self.pss_mb, |pss| pss.p95),
            shown(self.pss_mb, |pss| pss.max),
            format!("{:.1}", self.total_pss_mb),
        ];
        table(["MEASURED", "MIN", "MEDIAN", "P95", "MAX", "TOTAL"], [row])
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_process_tells_its_vm_in_one_argument_only() {
        let line = b"/usr/bin/qemu\0-name\0scaibunker-vm_1\0-M\0microvm\0";
        assert_eq!(vm_name(line).as_deref(), Some("vm_1"));
        for other in [&b""[..], b"grep\0scaibunker-vm_1\0", b"qemu\0-name\0", b"qemu\0-name\0x\0"] {
            assert_eq!(vm_name(other), None);
        }
    }

    #[test]
    fn pss_is_read_from_the_rollup() {
        let own = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        assert!(pss(&own).unwrap() > 0);
        assert_eq!(pss("Rss: 8 kB\nPss:   12 kB\nPss_Anon: 3 kB\n"), Some(12));
    }

    #[test]
    fn records_without_a_bunker_or_in_parts_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let id = BunkerId::generate();
        let records = [
            ("vm_a", format!(r#"{{"uid_slot":1,"claim":{{"bunker_id":"{id}"}}}}"#)),
            ("vm_b", r#"{"claim":null}"#.to_owned()),
            ("vm_c", "{".to_owned()),
        ];
        for (name, record) in records {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("record.json"), record).unwrap();
        }
        assert_eq!(owners(dir.path()).unwrap(), BTreeMap::from([("vm_a".to_owned(), id)]));
    }

    #[test]
    fn only_the_processes_of_the_asked_bunkers_count() {
        let dir = tempfile::tempdir().unwrap();
        let (asked, other) = (BunkerId::generate(), BunkerId::generate());
        let mut processes = Vec::new();
        for id in [asked, other] {
            let vm = format!("vm_of_{id}");
            fs::create_dir(dir.path().join(&vm)).unwrap();
            let record = format!(r#"{{"claim":{{"bunker_id":"{id}"}}}}"#);
            fs::write(dir.path().join(&vm).join("record.json"), record).unwrap();
            let mut process = std::process::Command::new("sh")
                .args(["-c", "echo; read line", "sh", "-name", &format!("scaibunker-{vm}")])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            // `spawn` may return before the kernel shows the new command line; a program that
            // has spoken runs with it.
            process.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            processes.push(process);
        }
        let pss_kb = pss_of(&BTreeSet::from([asked]), dir.path()).unwrap();
        assert!(pss_kb.len() == 1 && pss_kb[&asked] > 0, "{pss_kb:?}");
        for mut process in processes {
            drop(process.stdin.take());
            process.wait().unwrap();
        }
        let error = pss_of(&BTreeSet::from([asked]), dir.path()).unwrap_err();
        assert!(error.to_string().contains("none of the bunkers runs"), "{error}");
    }
}

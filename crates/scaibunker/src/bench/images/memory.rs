//! The memory of the server and its helpers, without that of VMs.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};

use crate::bench::field;

const INTERVAL: Duration = Duration::from_millis(20);

/// The server that is watched.
pub struct Watch {
    server: u32,
}

/// Takes samples until it is dropped.
pub struct Sampling {
    peak_kb: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// The server with this data directory: whoever has its lock's file open.
    pub fn of_server(data_dir: &Path) -> anyhow::Result<Self> {
        let lock = data_dir.join("controller.lock");
        let lock = fs::canonicalize(&lock).with_context(|| {
            format!("cannot find {}; give the server's --data-dir", lock.display())
        })?;
        let holds_lock = |process: &u32| {
            let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|path| path == lock))
        };
        let server = processes()?.into_keys().find(holds_lock);
        let server = server.ok_or_else(|| {
            anyhow!(
                "no process has {} open; run this on the server's machine, as root",
                lock.display()
            )
        })?;
        Ok(Self { server })
    }

    pub fn begin(&self) -> Sampling {
        let (peak_kb, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (server, peak, over) = (self.server, Arc::clone(&peak_kb), Arc::clone(&is_over));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_kb(server), Ordering::Relaxed);
                thread::sleep(INTERVAL);
            }
        });
        Sampling { peak_kb, is_over }
    }
}

impl Sampling {
    /// The most there was, in MiB.
    pub fn peak_mb(&self) -> f64 {
        (self.peak_kb.load(Ordering::Relaxed) as f64 / 102.4).round() / 10.0
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

struct Process {
    parent: u32,
    name: String,
    anonymous_kb: u64,
}

/// Of the server and everything it has started but VMMs.
fn anonymous_kb(server: u32) -> u64 {
    let processes = processes().unwrap_or_default();
    let belongs = |id: &u32| {
        let mut id = *id;
        loop {
            match processes.get(&id) {
                Some(process) if process.name.starts_with("qemu") => return false,
                _ if id == server => return true,
                Some(process) if process.parent > 1 => id = process.parent,
                _ => return false,
            }
        }
    };
    let own = processes.iter().filter(|(id, _)| belongs(id));
    own.map(|(_, process)| process.anonymous_kb).sum()
}

fn processes() -> io::Result<BTreeMap<u32, Process>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has just ended is nobody's.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let number = |name| {
            let value = field(&status, name)?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        let process = Process {
            parent: number("PPid").and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
            name: field(&status, "Name").unwrap_or_default(),
            anonymous_kb: number("RssAnon").unwrap_or(0),
        };
        found.insert(id, process);
    }
    Ok(found)
}

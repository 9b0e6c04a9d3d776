//! Where figures come from: without the machine they mean nothing.

use std::{fs, thread};

use anyhow::Context as _;
use serde::Serialize;

use crate::client::Client;

/// The machine that the bench ran on, and the engines of the workers it measured.
#[derive(Debug, Serialize)]
pub struct Setting {
    machine: Machine,
    /// Such as `qemu 7.2.22 (tcg)`, each once; empty when the key may not list workers.
    engines: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    memory_mb: u64,
    cpu: String,
    kernel: String,
}

impl Setting {
    /// Looks at this machine and asks the controller.
    pub async fn of(client: &Client) -> Self {
        let workers = client.workers().await.unwrap_or_default();
        let mut engines: Vec<_> = workers.into_iter().map(|worker| worker.engine).collect();
        engines.sort();
        engines.dedup();
        Self { machine: Machine::this(), engines }
    }

    /// This machine, with an engine that is not asked for.
    pub fn with_engine(engine: &str) -> Self {
        Self { machine: Machine::this(), engines: vec![engine.to_owned()] }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Machine { cores, memory_mb, cpu, kernel } = &self.machine;
        let engines = match self.engines.as_slice() {
            [] => "unknown engine".to_owned(),
            engines => engines.join(", "),
        };
        format!("{cores} cores ({cpu}), {memory_mb} MiB, Linux {kernel}; {engines}")
    }
}

impl Machine {
    fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kb = memory.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok());
        Self {
            cores: thread::available_parallelism().map_or(0, Into::into),
            memory_mb: memory_kb.unwrap_or(0) / 1024,
            cpu: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| "unknown".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// What a process has of the memory, in MiB.
pub fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = field(&status, "VmRSS").context("/proc has no memory of it")?;
    let kib: f64 = rss.split_whitespace().next().unwrap_or_default().parse()?;
    Ok((kib / 102.4).round() / 10.0)
}

/// The value of the first `name: value` line.
pub fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalX: 1 kB\nmodel name\t: A: B\nMemTotal:   24 kB\n";
        assert_eq!(super::field(text, "MemTotal").as_deref(), Some("24 kB"));
        assert_eq!(super::field(text, "model name").as_deref(), Some("A: B"));
        assert_eq!(super::field(text, "model"), None);
    }
}

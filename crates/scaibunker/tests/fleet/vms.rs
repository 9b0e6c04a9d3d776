//! The microVMs of a fleet's workers, by their names: nothing else tells whose a VMM is once its
//! directory is gone.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Notes every VM that a fleet ever has.
pub struct Vms {
    seen: Arc<Mutex<BTreeSet<String>>>,
    is_over: Arc<AtomicBool>,
    watch: Option<JoinHandle<()>>,
}

impl Vms {
    /// Watches the directories that workers keep their VMs' in.
    pub fn watch(dirs: Vec<PathBuf>) -> Self {
        let (seen, is_over) = (Arc::<Mutex<BTreeSet<_>>>::default(), Arc::<AtomicBool>::default());
        let watch = std::thread::spawn({
            let (seen, is_over) = (Arc::clone(&seen), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
                    let names = entries.flatten().map(|entry| entry.file_name());
                    seen.lock().unwrap().extend(names.filter_map(|name| name.into_string().ok()));
                    std::thread::sleep(LOOK_INTERVAL);
                }
            }
        });
        Self { seen, is_over, watch: Some(watch) }
    }

    /// The cgroups of any of them.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let seen = self.seen.lock().unwrap();
        let roots = ["/sys/fs/cgroup".into()].into_iter().chain(
            fs::read_dir("/sys/fs/cgroup")
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path()),
        );
        let below = roots.map(|root: PathBuf| root.join("scaibunker")).collect::<Vec<_>>();
        let groups = below.iter().flat_map(|root| seen.iter().map(|name| root.join(name)));
        groups.filter(|group| group.exists()).collect()
    }

    /// Those of them that run.
    pub fn running(&self) -> Vec<(Pid, String)> {
        let seen = self.seen.lock().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let mut arguments = line.split(|byte| *byte == 0);
            let name = arguments
                .find_map(|argument| str::from_utf8(argument).ok()?.strip_prefix("scaibunker-"))?;
            Some((Pid::from_raw(pid)?, name.to_owned()))
        });
        processes.filter(|(_, name)| seen.contains(name)).collect()
    }
}

impl Drop for Vms {
    /// A test that failed has not ended what it started.
    fn drop(&mut self) {
        for (pid, _) in self.running() {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

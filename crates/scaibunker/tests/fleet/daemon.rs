//! One process of the fleet, which may be killed, stopped and started again.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use rustix::process::Signal;

const START_LIMIT: Duration = Duration::from_secs(120);

pub struct Daemon {
    pub name: String,
    args: Vec<String>,
    variables: Vec<(String, String)>,
    log: PathBuf,
    ready: &'static str,
    /// The file that stands for the network it is in, if not the test's.
    network: Option<PathBuf>,
    process: Option<Child>,
}

impl Daemon {
    /// A process that is not running yet; `ready` is what it says once it is.
    pub fn new(
        name: &str,
        args: Vec<String>,
        variables: Vec<(String, String)>,
        dir: &Path,
        ready: &'static str,
    ) -> Self {
        let log = dir.join(format!("{name}.log"));
        Self { name: name.to_owned(), args, variables, log, ready, network: None, process: None }
    }

    /// Puts it into another network than the test's.
    pub fn in_network(mut self, namespace: PathBuf) -> Self {
        self.network = Some(namespace);
        self
    }

    /// Gives it another value of a variable.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// Gives it another value of an option.
    pub fn replace(&mut self, option: &str, value: &str) {
        let at = self.args.iter().position(|arg| arg == option).unwrap();
        value.clone_into(&mut self.args[at + 1]);
    }

    pub fn start(&mut self) {
        let log = File::create(&self.log).unwrap();
        let program = env!("CARGO_BIN_EXE_scaibunker");
        let mut command = match &self.network {
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(&self.args)
            .env("SCAIBUNKER_LOG", "info")
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn has_said(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    pub fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        while !self.has_said(self.ready) {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.process = None;
            }
            let is_late = Instant::now() > deadline;
            let is_starting = self.process.is_some() && !is_late;
            assert!(is_starting, "{} did not start: {}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            let pid = rustix::process::Pid::from_child(process);
            rustix::process::kill_process(pid, signal).unwrap();
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Ends it as a service manager would.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.signal(Signal::CONT);
            self.stop();
        }
    }
}

//! One command: its cgroup, its streams and its process.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use scaibunker_guest_protocol::exec::ExecSpec;

use super::{
    launch::Launch,
    spawn::{ChildStreams, Failure, spawn},
    streams::{Streams, of_terminal, pipes},
    terminal::Terminal,
};
use crate::{
    accounts::{self, Account},
    cgroup::CommandCgroup,
    error::AgentError,
    reaper::Child,
    root::BunkerRoot,
    root_files,
    server::Agent,
};

/// A command, from before its process is made until after it has ended.
#[derive(Debug)]
pub struct Command {
    pub cgroup: CommandCgroup,
    pub streams: Streams,
    pub child: Child,
    pub terminal: Option<Arc<Terminal>>,
    /// The device of the terminal: while one is open, programs may close and reopen theirs and
    /// the agent's end does not read as ended.
    pub device: Option<OwnedFd>,
}

/// What making the process takes.
#[derive(Debug)]
pub struct Starter {
    launch: Launch,
    streams: ChildStreams,
    root: Arc<BunkerRoot>,
    cgroup: OwnedFd,
    pid: Arc<AtomicI32>,
}

/// Whether a command's program runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    Runs,
    /// A process was made, and has ended as a shell's would.
    NotExecuted {
        exit_code: i32,
        reason: String,
    },
}

impl Command {
    /// Checks `spec` against the bunker and sets the command's surroundings up.
    pub fn prepare(
        agent: &Agent,
        root: &Arc<BunkerRoot>,
        spec: &ExecSpec,
    ) -> Result<(Self, Starter), AgentError> {
        let mut account = accounts::find(&spec.user, root)?;
        if spec.argv.is_empty() {
            prefer_existing_shell(&mut account, root);
        }
        let launch = Launch::new(spec, account)?;
        let cgroup = agent.cgroup.command(&spec.exec_id)?;
        let failed = || AgentError::io("make the command's streams");
        let (mut terminal, mut device) = (None, None);
        let (streams, child_streams) = match spec.terminal {
            Some(size) => {
                let (end, device_end) = Terminal::open(root, &launch.account, size)?;
                device = Some(device_end.try_clone().map_err(failed())?);
                let end = terminal.insert(Arc::new(end)).try_clone().map_err(failed())?;
                of_terminal(end, device_end).map_err(failed())?
            }
            None => pipes(&launch.account).map_err(failed())?,
        };
        let child = agent.reaper.expect();
        let starter = Starter {
            launch,
            streams: child_streams,
            root: Arc::clone(root),
            cgroup: cgroup.dir().try_clone().map_err(AgentError::io("open the cgroup"))?,
            pid: Arc::clone(&child.pid),
        };
        Ok((Self { cgroup, streams, child, terminal, device }, starter))
    }

    /// Keeps the processes that a command left behind company until the last one has ended.
    pub async fn settle(mut self) {
        self.streams.stdin.close();
        self.keep_company().await;
    }

    /// [`Self::settle`] for a command that has not ended: it may still wait for input, whose end this
    /// is not.
    pub async fn keep_company(self) {
        let Streams { stdin: _kept_open, output } = self.streams;
        drop((self.terminal, self.device));
        // A cgroup that cannot be removed costs a little memory, and nobody can do more.
        let _ = tokio::join!(self.cgroup.remove_when_empty(), output.discard());
    }
}

impl Starter {
    /// Makes the process. A start that hangs is freed by killing the command's cgroup.
    pub async fn start(self) -> Result<Start, AgentError> {
        let spawning = tokio::task::spawn_blocking(move || {
            let Self { launch, streams, root, cgroup, pid } = self;
            spawn(&launch, &streams, root.dir().as_fd(), cgroup.as_fd(), &pid)
                .map_or_else(|failure| explain(failure, &launch), |()| Ok(Start::Runs))
        });
        spawning.await.map_err(AgentError::io("start a thread"))?
    }
}

/// The process's number; 0 before it is made.
pub fn pid_of(child: &Child) -> u32 {
    child.pid.load(Ordering::Acquire).unsigned_abs()
}

/// A login with a shell that is missing gets the one that every system has.
fn prefer_existing_shell(account: &mut Account, root: &BunkerRoot) {
    if root_files::open(root.dir(), &*account.shell, OFlags::PATH, Mode::empty()).is_err() {
        "/bin/sh".clone_into(&mut account.shell);
    }
}

fn explain(failure: Failure, launch: &Launch) -> Result<Start, AgentError> {
    let program = launch.argv.first().map(|arg| arg.to_string_lossy()).unwrap_or_default();
    match failure {
        Failure::Exec(Errno::NOENT | Errno::NOTDIR) => {
            Ok(Start::NotExecuted { exit_code: 127, reason: format!("{program}: not found") })
        }
        Failure::Exec(error) => {
            let reason = format!("{program}: {}", io::Error::from(error));
            Ok(Start::NotExecuted { exit_code: 126, reason })
        }
        Failure::Cwd(error) => {
            let cause = io::Error::from(error);
            Err(AgentError::Invalid(format!("cannot enter the working directory: {cause}")))
        }
        Failure::Clone(Errno::AGAIN) => {
            Err(AgentError::Conflict("the bunker runs as many processes as it may".to_owned()))
        }
        Failure::Clone(error) => Err(AgentError::io("make a process")(error)),
        Failure::Setup(error) => Err(AgentError::io("set the process up")(error)),
    }
}

//! One command.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Grace between SIGTERM and SIGKILL when a command reaches its time limit, in milliseconds.
pub const KILL_GRACE_MS: u64 = 5_000;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Names the exec in the agent's log and its cgroup; `[a-z0-9_]` only.
    pub exec_id: String,
    pub request_id: String,
    /// Empty: the user's login shell.
    pub argv: Vec<String>,
    /// `None`: the first of `default_cwd` and the user's home directory that is there.
    pub cwd: Option<String>,
    /// The image's; one that is not an absolute path counts as none.
    #[serde(default)]
    pub default_cwd: String,
    pub env: BTreeMap<String, String>,
    /// Name or `uid[:gid]`, looked up in the bunker's own passwd file.
    pub user: String,
    /// `None`: no time limit.
    pub timeout_ms: Option<u64>,
    /// Run in a terminal of this size, with all output as standard output.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}

/// A terminal's size in characters; neither is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub cols: u16,
    pub rows: u16,
}

/// The body of `POST /execs/{id}/signal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendSignal {
    /// Number of the signal, 1 to 64.
    pub signal: i32,
}

/// The command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub pid: u32,
}

/// The command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell would report it: 128 + signal, 127 not found, 126 not executable.
    pub exit_code: i32,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
    pub timed_out: bool,
    pub oom_killed: bool,
    pub duration_ms: u64,
}

//! Running commands, as clients see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::ExecId;

/// Limit of one command that names none, in seconds.
pub const DEFAULT_TIMEOUT_S: u64 = 60;

/// Bytes of each of stdout and stderr that an answer carries at most.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A string goes to `/bin/sh -c`, an array is executed as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum Command {
    Shell(String),
    Argv(Vec<String>),
}

/// The body of `POST /bunkers/{id}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    pub command: Command,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Text for the command's standard input; not together with `stdin_base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    /// Answer with server-sent events instead of one object.
    #[serde(default)]
    pub stream: bool,
    /// Let the command outlive the request.
    #[serde(default)]
    pub detach: bool,
}

fn default_timeout_s() -> u64 {
    DEFAULT_TIMEOUT_S
}

/// How `stdout` and `stderr` are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOutcome {
    pub exec_id: ExecId,
    /// As a shell would report it: 128 + the signal's number for a killed command.
    pub exit_code: i32,
    /// Such as `SIGKILL`, when a signal ended the command.
    pub signal: Option<String>,
    pub timed_out: bool,
    pub oom_killed: bool,
    pub truncated: bool,
    pub full_output_ref: Option<String>,
    pub duration_ms: u64,
}

/// The answer of a plain (not streamed) exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecAnswer {
    #[serde(flatten)]
    pub outcome: ExecOutcome,
    pub stdout: String,
    pub stderr: String,
    pub encoding: Encoding,
}

/// The data of an SSE `started` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub exec_id: ExecId,
    pub pid: u32,
}

/// The data of an SSE `stdout` or `stderr` event: `text` where the bytes are UTF-8, else `base64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputChunk {
    pub seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

//! Running commands, as clients see it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::ExecId;

/// Limit of one command that names none, in seconds.
pub const DEFAULT_TIMEOUT_S: u64 = 60;

/// Bytes of each of stdout and stderr that an answer carries at most.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A string goes to `/bin/sh -c`, an array is executed as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum Command {
    Shell(String),
    Argv(Vec<String>),
}

/// The body of `POST /bunkers/{id}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    pub command: Command,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub user: Option<String>,
    /// Text for the command's standard input; not together with `stdin_base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    pub stdin_base64: Option<String>,
    #[serde(default = "default_timeout_s")]
    #[schemars(range(min = 1))]
    pub timeout_s: u64,
    /// Answer with server-sent events instead of one object.
    #[serde(default)]
    pub stream: bool,
    /// Let the command outlive the request.
    #[serde(default)]
    pub detach: bool,
    /// Keep standard input open after `stdin`, for `POST …/execs/{exec_id}/input`. Unless told, it
    /// is open for a detached command without `stdin`, and closed for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_open: Option<bool>,
}

fn default_timeout_s() -> u64 {
    DEFAULT_TIMEOUT_S
}

/// How `stdout` and `stderr` are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecOutcome {
    pub exec_id: ExecId,
    /// As a shell would report it: 128 + the signal's number for a killed command.
    pub exit_code: i32,
    /// Such as `SIGKILL`, when a signal ended the command.
    pub signal: Option<String>,
    pub timed_out: bool,
    pub oom_killed: bool,
    /// Whether stdout or stderr was longer than an answer carries.
    pub truncated: bool,
    /// Path below the API's prefix with the whole of what was cut: stdout, or stderr if only that
    /// was cut. `None` though `truncated`: it could not be kept, and `full_output_error` says why.
    pub full_output_ref: Option<String>,
    /// The whole of stderr, when it was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_stderr_ref: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_output_error: Option<String>,
    pub duration_ms: u64,
}

/// The answer of a plain (not streamed) exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecAnswer {
    #[serde(flatten)]
    pub outcome: ExecOutcome,
    pub stdout: String,
    pub stderr: String,
    pub encoding: Encoding,
}

/// The answer of a detached exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detached {
    pub exec_id: ExecId,
    pub pid: u32,
}

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecStatus {
    Running,
    Exited,
    /// It ended without a result; `error` says why.
    Failed,
}

/// How a command is tied to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecMode {
    /// Ends with the request.
    Attached,
    /// Ends by itself.
    Detached,
    /// In a terminal; outlives its last client by 60 s.
    Shell,
}

/// A command as `GET /bunkers/{id}/execs` lists it. A bunker's last 64 ended ones are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecRecord {
    pub exec_id: ExecId,
    pub status: ExecStatus,
    pub mode: ExecMode,
    /// `None`: the login shell.
    pub command: Option<Command>,
    pub pid: Option<u32>,
    #[serde(with = "crate::time")]
    #[schemars(with = "jiff::Timestamp")]
    pub started_at: jiff::Timestamp,
    #[serde(with = "crate::time::optional")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub ended_at: Option<jiff::Timestamp>,
    /// Sequence number that the next piece of output gets.
    pub next_seq: u64,
    /// Lowest sequence number that `…/stream?from_seq=` can still give.
    pub first_seq: u64,
    /// Once it exited.
    pub outcome: Option<ExecOutcome>,
    pub error: Option<crate::error::ErrorBody>,
}

/// The body of `POST /bunkers/{id}/execs/{exec_id}/input`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecInput {
    /// Text; not together with `data_base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// Standard input ends after this.
    #[serde(default)]
    pub eof: bool,
}

/// The body of `POST /bunkers/{id}/execs/{exec_id}/signal`: `SIGINT`, `INT` or `2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecSignal {
    pub signal: SignalName,
}

/// A signal by name or number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a signal's name or number")]
pub enum SignalName {
    Number(i32),
    Name(String),
}

/// The data of an SSE `started` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    pub exec_id: ExecId,
    pub pid: u32,
}

/// The data of an SSE `stdout` or `stderr` event: `text` where the bytes are UTF-8, else `base64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputChunk {
    pub seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// The data of an SSE `gap` event: output before `next_seq` is no longer at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputGap {
    pub next_seq: u64,
}

//! Text frames of the shell's WebSocket; binary frames are the terminal's bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::ErrorCode, exec::SignalName, ids::ExecId};

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToShell {
    Resize { cols: u16, rows: u16 },
    Signal { signal: SignalName },
}

/// To the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromShell {
    /// First of all; the id is for a reconnection.
    Ready { shell_id: ExecId },
    /// Last of all.
    Exit { exit_code: i32 },
    /// Last of all.
    Error { code: ErrorCode, message: String },
}

/// Prefix of the WebSocket subprotocol in which browsers send the API key.
pub const BEARER_SUBPROTOCOL: &str = "bearer.";

/// Seconds that a shell waits for a client to come back.
pub const LINGER_S: u64 = 60;

//! Log lines go to standard error: standard output belongs to data.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Environment variable with the filter, such as `info,scaibunker_worker=debug`.
const FILTER_VARIABLE: &str = "SCAIBUNKER_LOG";

/// Starts logging. `default_filter` holds when the environment names none, or a wrong one.
pub fn init(default_filter: &str) {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default_filter));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

//! Options that server commands have in common.

mod access;
mod scanner;
mod state;
mod storage;
mod tls;
mod worker;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use scaibunker_api::worker::HEARTBEAT_INTERVAL_S;
use scaibunker_controller::{ControllerConfig, RateLimits};

use self::{access::AccessArgs, scanner::ScannerArgs, storage::StorageArgs};
pub use self::{state::StateArgs, tls::TlsArgs, worker::WorkerArgs};

/// Everything about a controller that can be set.
#[derive(Debug, Args)]
pub struct ControllerOptions {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    scanner: ScannerArgs,
    #[command(flatten)]
    liveness: LivenessArgs,
}

/// When a worker counts as offline.
#[derive(Debug, Args)]
#[command(next_help_heading = "Workers")]
struct LivenessArgs {
    /// Heartbeats, one every 10 s, that a worker may miss before it is offline and its bunkers fail
    #[arg(
        long,
        env = "WORKER_STALE_THRESHOLD_MULTIPLIER",
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(2..=1000)
    )]
    worker_stale_threshold_multiplier: u32,
}

impl ControllerOptions {
    /// The settings of a controller; `rate_limits` are those that nothing else is said about.
    pub fn config(
        &self,
        data_dir: PathBuf,
        worker_token: String,
        rate_limits: RateLimits,
    ) -> anyhow::Result<ControllerConfig> {
        let multiplier = self.liveness.worker_stale_threshold_multiplier;
        let config = ControllerConfig {
            worker_stale_after: Duration::from_secs(HEARTBEAT_INTERVAL_S) * multiplier,
            ..ControllerConfig::new(data_dir, worker_token)
        };
        let config = self.scanner.apply(self.storage.apply(config)?);
        self.access.apply(self.state.apply(config)?, rate_limits)
    }
}

//! What images are scanned with.

use std::path::PathBuf;

use clap::Args;
use scaibunker_controller::ControllerConfig;

/// Options of image scans.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image scans")]
pub struct ScannerArgs {
    /// The Trivy program, which scans images. Its own settings come from the environment, such as
    /// TRIVY_DB_REPOSITORY for a mirror of its database, or TRIVY_SERVER and TRIVY_TOKEN
    #[arg(long, env = "SCAIBUNKER_TRIVY", value_name = "FILE", default_value = "trivy")]
    trivy: PathBuf,
}

impl ScannerArgs {
    /// `config` with the scanner set.
    pub fn apply(&self, config: ControllerConfig) -> ControllerConfig {
        ControllerConfig { trivy: self.trivy.clone(), ..config }
    }
}

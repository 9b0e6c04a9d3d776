//! What a scan of an image found.

use scaibunker_api::image::{Finding, SeverityCounts};

/// The result of one scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanOutcome {
    /// Such as `trivy 0.70.0`.
    pub scanner: String,
    /// Of all findings, also those that are not kept.
    pub counts: SeverityCounts,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Whether some were not kept.
    pub truncated: bool,
}

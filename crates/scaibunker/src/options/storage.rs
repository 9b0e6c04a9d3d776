//! Where the server keeps objects, and how clients reach them.

use clap::Args;
use scaibunker_controller::{ControllerConfig, DEFAULT_SNAPSHOT_RETENTION_DAYS, ObjectsConfig};

use crate::{
    bucket::{BucketArgs, origin},
    secret,
};

/// Options of the object store.
#[derive(Debug, Args)]
#[command(next_help_heading = "Object store")]
pub struct StorageArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// Where clients find this server, such as https://bunkers.example: the base of signed URLs
    /// [default: http:// and the host that a request names]
    #[arg(long, env = "SCAIBUNKER_PUBLIC_URL", value_name = "URL", value_parser = origin)]
    public_url: Option<String>,
    /// Days for which the last snapshots of deleted bunkers are kept
    #[arg(
        long,
        env = "DEFAULT_SNAPSHOT_RETENTION_DAYS",
        value_name = "DAYS",
        default_value_t = DEFAULT_SNAPSHOT_RETENTION_DAYS,
        value_parser = clap::value_parser!(u32).range(1..=36_500)
    )]
    snapshot_retention_days: u32,
}

impl StorageArgs {
    /// `config` with the object store and its secrets set.
    pub fn apply(&self, config: ControllerConfig) -> anyhow::Result<ControllerConfig> {
        Ok(ControllerConfig {
            objects: self.bucket.config()?.map_or(ObjectsConfig::Directory, ObjectsConfig::S3),
            capability_secret: secret::of_environment(secret::CAPABILITY_SECRET_VARIABLE),
            capability_secret_previous: secret::of_environment(
                secret::PREVIOUS_CAPABILITY_SECRET_VARIABLE,
            ),
            public_url: self.public_url.clone(),
            snapshot_secret: secret::of_environment(secret::SNAPSHOT_SECRET_VARIABLE),
            snapshot_secret_previous: secret::of_environment(
                secret::PREVIOUS_SNAPSHOT_SECRET_VARIABLE,
            ),
            snapshot_retention_days: self.snapshot_retention_days,
            ..config
        })
    }
}

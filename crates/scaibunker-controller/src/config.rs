//! What an operator can set.

use std::{fmt, path::PathBuf, time::Duration};

use scaibunker_api::{quota::Caps, worker::HEARTBEAT_INTERVAL_S};
use scaibunker_storage::S3Config;

use crate::{credentials::OidcConfig, store::DatabaseUrl};

/// Heartbeats that a worker may miss before it counts as offline.
const DEFAULT_STALE_MULTIPLIER: u32 = 3;

/// Settings of one controller.
#[derive(Clone)]
pub struct ControllerConfig {
    /// Holds the database, the admin key and the objects; made if it is missing.
    pub data_dir: PathBuf,
    /// Where the database is. `None`: a SQLite file in the data directory.
    pub database: Option<DatabaseUrl>,
    /// The secret that workers present; never empty.
    pub worker_token: String,
    /// Silence after which a worker is offline and its bunkers fail.
    pub worker_stale_after: Duration,
    /// How long requests may take to end once the process is asked to.
    pub drain_limit: Duration,
    /// Where objects are: outputs, uploads and what else is too large for the database.
    pub objects: ObjectsConfig,
    /// Signs URLs of objects in a directory. `None`: a random one that stays in the data directory.
    pub capability_secret: Option<String>,
    /// Where clients find this server, such as `https://bunkers.example`, without a path: the base
    /// of signed URLs. `None`: `http://` and the `Host` that a request names.
    pub public_url: Option<String>,
    /// The ceiling over every quota profile; `None` in a field is no ceiling.
    pub platform_max: Caps,
    /// Whose tokens are accepted beside API keys.
    pub oidc: Option<OidcConfig>,
}

/// An object store.
#[derive(Debug, Clone, Default)]
pub enum ObjectsConfig {
    /// `objects` in the data directory.
    #[default]
    Directory,
    S3(S3Config),
}

impl ControllerConfig {
    /// The settings with every default.
    #[must_use]
    pub fn new(data_dir: PathBuf, worker_token: String) -> Self {
        Self {
            data_dir,
            database: None,
            worker_token,
            worker_stale_after: Duration::from_secs(HEARTBEAT_INTERVAL_S)
                * DEFAULT_STALE_MULTIPLIER,
            drain_limit: Duration::from_secs(10),
            objects: ObjectsConfig::default(),
            capability_secret: None,
            public_url: None,
            platform_max: Caps::default(),
            oidc: None,
        }
    }
}

impl fmt::Debug for ControllerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerConfig")
            .field("data_dir", &self.data_dir)
            .field("database", &self.database)
            .field("worker_stale_after", &self.worker_stale_after)
            .field("drain_limit", &self.drain_limit)
            .field("objects", &self.objects)
            .field("public_url", &self.public_url)
            .field("platform_max", &self.platform_max)
            .field("oidc", &self.oidc)
            .finish_non_exhaustive()
    }
}

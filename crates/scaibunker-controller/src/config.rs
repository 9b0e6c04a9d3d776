//! What an operator can set.

use std::{fmt, path::PathBuf, time::Duration};

use ipnet::IpNet;
use scaibunker_api::{quota::Caps, worker::HEARTBEAT_INTERVAL_S};
use scaibunker_storage::S3Config;

use crate::{credentials::OidcConfig, ledger::RedisUrl, server::TlsFiles, store::DatabaseUrl};

/// Heartbeats that a worker may miss before it counts as offline.
const DEFAULT_STALE_MULTIPLIER: u32 = 3;

const DEFAULT_AUDIT_RETENTION_DAYS: u32 = 90;

/// How long a snapshot is kept that nobody asked for by itself.
pub const DEFAULT_SNAPSHOT_RETENTION_DAYS: u32 = 7;

/// Settings of one controller.
#[derive(Clone)]
pub struct ControllerConfig {
    /// Holds the database, the admin key and the objects; made if it is missing.
    pub data_dir: PathBuf,
    /// Where the database is. `None`: a SQLite file in the data directory.
    pub database: Option<DatabaseUrl>,
    /// Where controllers count together. `None`: this one is alone and counts in its memory.
    pub redis: Option<RedisUrl>,
    /// Whose tokens are accepted beside API keys.
    pub oidc: Option<OidcConfig>,
    /// The ceiling over every quota profile; `None` in a field is no ceiling.
    pub platform_max: Caps,
    /// The secret that workers present; never empty.
    pub worker_token: String,
    /// Silence after which a worker is offline and its bunkers fail.
    pub worker_stale_after: Duration,
    /// How long requests may take to end once the process is asked to.
    pub drain_limit: Duration,
    /// Where objects are: outputs, uploads and what else is too large for the database.
    pub objects: ObjectsConfig,
    /// Seals capability tokens of the storage proxy and signs URLs of objects in a directory.
    /// `None`: a random one that stays in the data directory.
    pub capability_secret: Option<String>,
    /// The secret before that one: what it has sealed or signed is still accepted.
    pub capability_secret_previous: Option<String>,
    /// What snapshots are encrypted with at rest. `None`: they are not.
    pub snapshot_secret: Option<String>,
    /// The secret before that one: snapshots that were encrypted with it are still read.
    pub snapshot_secret_previous: Option<String>,
    /// How long the last snapshots of deleted bunkers are kept, in days.
    pub snapshot_retention_days: u32,
    /// What connections are encrypted with. `None`: they are not.
    pub tls: Option<TlsFiles>,
    /// Where clients find this server, such as `https://bunkers.example`, without a path: the base
    /// of signed URLs. `None`: what it serves, `http` or `https`, and the `Host` that a request
    /// names.
    pub public_url: Option<String>,
    /// Where workers reach this controller itself, and not another behind the same load balancer,
    /// such as `http://10.0.0.5:8420`. `None`: it is alone.
    pub advertise_url: Option<String>,
    /// How many requests a minute who may make.
    pub rate_limits: RateLimits,
    /// Load balancers in front of this server: what they say in `X-Forwarded-For` about a client's
    /// address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Bunkers that may reach everything have to be audited.
    pub require_egress_audit: bool,
    /// How long the audit log goes back, in days.
    pub audit_retention_days: u32,
    /// The program that scans images: a path, or a name that is looked for in PATH. It is given
    /// this process' variables `TRIVY_*`.
    pub trivy: PathBuf,
}

/// Requests in any 60 seconds; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Of one API key.
    pub key: Option<u32>,
    /// Of one user, whatever keys it uses.
    pub user: Option<u32>,
    /// Of all users of a tenant together.
    pub tenant: Option<u32>,
    /// Requests from one address whose credential is not accepted.
    pub strangers: Option<u32>,
}

impl RateLimits {
    /// Known callers are not limited.
    pub const OFF: Self = Self { key: None, user: None, tenant: None, strangers: Some(60) };
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { key: Some(60), user: Some(120), tenant: Some(1000), strangers: Some(60) }
    }
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
            redis: None,
            oidc: None,
            platform_max: Caps::default(),
            worker_token,
            worker_stale_after: Duration::from_secs(HEARTBEAT_INTERVAL_S)
                * DEFAULT_STALE_MULTIPLIER,
            drain_limit: Duration::from_secs(10),
            objects: ObjectsConfig::default(),
            capability_secret: None,
            capability_secret_previous: None,
            snapshot_secret: None,
            snapshot_secret_previous: None,
            snapshot_retention_days: DEFAULT_SNAPSHOT_RETENTION_DAYS,
            tls: None,
            public_url: None,
            advertise_url: None,
            rate_limits: RateLimits::default(),
            trusted_proxies: Vec::new(),
            require_egress_audit: false,
            audit_retention_days: DEFAULT_AUDIT_RETENTION_DAYS,
            trivy: "trivy".into(),
        }
    }
}

impl fmt::Debug for ControllerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerConfig")
            .field("data_dir", &self.data_dir)
            .field("database", &self.database)
            .field("redis", &self.redis)
            .field("worker_stale_after", &self.worker_stale_after)
            .field("drain_limit", &self.drain_limit)
            .field("objects", &self.objects)
            .field("tls", &self.tls)
            .field("public_url", &self.public_url)
            .field("advertise_url", &self.advertise_url)
            .field("platform_max", &self.platform_max)
            .field("oidc", &self.oidc)
            .field("rate_limits", &self.rate_limits)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("require_egress_audit", &self.require_egress_audit)
            .field("audit_retention_days", &self.audit_retention_days)
            .field("trivy", &self.trivy)
            .finish_non_exhaustive()
    }
}

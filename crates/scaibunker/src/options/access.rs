//! Whose credentials are accepted, and how much anyone may ask for.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use ipnet::IpNet;
use scaibunker_api::{ids::TenantId, quota::Caps};
use scaibunker_controller::{ControllerConfig, OidcConfig, RateLimits};

/// Options of identity and limits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Identity and limits")]
pub struct AccessArgs {
    /// OpenID Connect issuer whose tokens are accepted beside API keys
    #[arg(long, env = "SCAIBUNKER_OIDC_ISSUER", value_name = "URL", requires = "oidc_audience")]
    oidc_issuer: Option<String>,
    /// `aud` that its tokens must have
    #[arg(long, env = "SCAIBUNKER_OIDC_AUDIENCE", value_name = "TEXT")]
    oidc_audience: Option<String>,
    /// Tenant in which users of the issuer are made when they first come; without it they must be
    /// made before
    #[arg(long, env = "SCAIBUNKER_OIDC_TENANT", value_name = "ID", requires = "oidc_issuer")]
    oidc_tenant: Option<TenantId>,
    /// Certificate authorities to trust for the issuer, instead of the system's
    #[arg(long, env = "SCAIBUNKER_OIDC_CA_FILE", value_name = "FILE", requires = "oidc_issuer")]
    oidc_ca_file: Option<PathBuf>,
    /// Requests a minute of one API key; without a number, 60; 0 is no limit
    #[arg(long, env = "SCAIBUNKER_RATE_LIMIT_KEY", value_name = "N", num_args = 0..=1,
          default_missing_value = "60")]
    rate_limit_key: Option<u32>,
    /// Requests a minute of one user; without a number, 120; 0 is no limit
    #[arg(long, env = "SCAIBUNKER_RATE_LIMIT_USER", value_name = "N", num_args = 0..=1,
          default_missing_value = "120")]
    rate_limit_user: Option<u32>,
    /// Requests a minute of all users of a tenant together; without a number,
    /// 1000; 0 is no limit
    #[arg(long, env = "SCAIBUNKER_RATE_LIMIT_TENANT", value_name = "N", num_args = 0..=1,
          default_missing_value = "1000")]
    rate_limit_tenant: Option<u32>,
    /// Load balancer whose X-Forwarded-For is believed, such as 10.0.0.0/8; may be given more than once
    #[arg(
        long = "trusted-proxy",
        env = "SCAIBUNKER_TRUSTED_PROXIES",
        value_name = "NET",
        value_delimiter = ','
    )]
    trusted_proxies: Vec<IpNet>,
    /// Days that the audit log goes back
    #[arg(
        long,
        env = "SCAIBUNKER_AUDIT_RETENTION_DAYS",
        value_name = "DAYS",
        default_value_t = 90
    )]
    audit_retention_days: u32,
    /// Take `unrestricted` bunkers only with `egress_audit`
    #[arg(long, env = "SCAIBUNKER_REQUIRE_EGRESS_AUDIT")]
    require_egress_audit: bool,
    #[command(flatten)]
    platform: PlatformArgs,
}

/// The ceiling of the whole installation over every quota profile.
#[derive(Debug, Args)]
struct PlatformArgs {
    /// Highest cap on bunkers at once that any quota profile grants
    #[arg(long, env = "PLATFORM_MAX_CONCURRENT_BUNKERS", value_name = "N")]
    platform_max_concurrent_bunkers: Option<u64>,
    /// The same for persistent bunkers
    #[arg(long, env = "PLATFORM_MAX_PERSISTENT_BUNKERS", value_name = "N")]
    platform_max_persistent_bunkers: Option<u64>,
    /// The same for CPU, in millicores
    #[arg(long, env = "PLATFORM_MAX_CPU_MILLICORES", value_name = "N")]
    platform_max_cpu_millicores: Option<u64>,
    /// The same for memory, in MiB
    #[arg(long, env = "PLATFORM_MAX_MEMORY_MB", value_name = "N")]
    platform_max_memory_mb: Option<u64>,
    /// The same for disk, in MiB
    #[arg(long, env = "PLATFORM_MAX_DISK_MB", value_name = "N")]
    platform_max_disk_mb: Option<u64>,
    /// The same for GPUs
    #[arg(long, env = "PLATFORM_MAX_GPU_COUNT", value_name = "N")]
    platform_max_gpu_count: Option<u64>,
    /// Most CPU of one bunker, in millicores
    #[arg(long, env = "PLATFORM_MAX_PER_BUNKER_CPU", value_name = "N")]
    platform_max_per_bunker_cpu: Option<u64>,
    /// Most memory of one bunker, in MiB
    #[arg(long, env = "PLATFORM_MAX_PER_BUNKER_MEMORY", value_name = "N")]
    platform_max_per_bunker_memory: Option<u64>,
    /// Most disk of one bunker, in MiB
    #[arg(long, env = "PLATFORM_MAX_PER_BUNKER_DISK", value_name = "N")]
    platform_max_per_bunker_disk: Option<u64>,
    /// Most GPUs of one bunker
    #[arg(long, env = "PLATFORM_MAX_PER_BUNKER_GPU", value_name = "N")]
    platform_max_per_bunker_gpu: Option<u64>,
}

impl AccessArgs {
    /// `config` with identity and limits set; `usual` are the limits that are not given.
    pub fn apply(
        &self,
        config: ControllerConfig,
        usual: RateLimits,
    ) -> anyhow::Result<ControllerConfig> {
        // No limit is written as 0.
        let limit = |given: Option<u32>, usual: Option<u32>| match given {
            Some(0) => None,
            given => given.or(usual),
        };
        Ok(ControllerConfig {
            oidc: self.oidc()?,
            rate_limits: RateLimits {
                key: limit(self.rate_limit_key, usual.key),
                user: limit(self.rate_limit_user, usual.user),
                tenant: limit(self.rate_limit_tenant, usual.tenant),
                ..usual
            },
            trusted_proxies: self.trusted_proxies.clone(),
            require_egress_audit: self.require_egress_audit,
            audit_retention_days: self.audit_retention_days,
            platform_max: self.platform.caps(),
            ..config
        })
    }

    fn oidc(&self) -> anyhow::Result<Option<OidcConfig>> {
        let Some(issuer_url) = self.oidc_issuer.clone() else { return Ok(None) };
        let audience = self.oidc_audience.clone().context("--oidc-issuer needs --oidc-audience")?;
        Ok(Some(OidcConfig {
            issuer_url,
            audience,
            auto_provision_tenant: self.oidc_tenant,
            ca_file: self.oidc_ca_file.clone(),
        }))
    }
}

impl PlatformArgs {
    fn caps(&self) -> Caps {
        Caps {
            max_concurrent_bunkers: self.platform_max_concurrent_bunkers,
            max_persistent_bunkers: self.platform_max_persistent_bunkers,
            max_cpu_millicores: self.platform_max_cpu_millicores,
            max_memory_mb: self.platform_max_memory_mb,
            max_disk_mb: self.platform_max_disk_mb,
            max_gpu_count: self.platform_max_gpu_count,
            per_bunker_max_cpu: self.platform_max_per_bunker_cpu,
            per_bunker_max_memory: self.platform_max_per_bunker_memory,
            per_bunker_max_disk: self.platform_max_per_bunker_disk,
            per_bunker_max_gpu: self.platform_max_per_bunker_gpu,
        }
    }
}

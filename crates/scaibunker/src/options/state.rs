//! Where the controller keeps what it must not forget, and what controllers count together.

use anyhow::Context as _;
use clap::Args;
use scaibunker_controller::{ControllerConfig, DatabaseUrl, RedisUrl};

use crate::secret;

const DATABASE_URL_VARIABLE: &str = "SCAIBUNKER_DATABASE_URL";
const REDIS_URL_VARIABLE: &str = "SCAIBUNKER_REDIS_URL";

/// Options of database and ledger. A URL with a password belongs into the environment: a command
/// line can be read by everyone on the machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Database")]
pub struct StateArgs {
    /// Database instead of the SQLite file in the data directory, such as postgres://db/scaibunker;
    /// with a password, set SCAIBUNKER_DATABASE_URL instead
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Redis or Valkey for quota counters, rates and liveness, shared by several controllers, such as
    /// redis://cache:6379; with a password, set SCAIBUNKER_REDIS_URL instead [default: in process]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
}

impl StateArgs {
    /// `config` with database and ledger set.
    pub fn apply(&self, config: ControllerConfig) -> anyhow::Result<ControllerConfig> {
        Ok(ControllerConfig { database: self.database()?, redis: self.redis()?, ..config })
    }

    /// The database, unless it is the data directory's.
    pub fn database(&self) -> anyhow::Result<Option<DatabaseUrl>> {
        // The text of a wrong URL may hold a password, so only its source is named.
        let parse = |(text, source): (String, &str)| {
            text.parse().with_context(|| format!("the database URL of {source}"))
        };
        given(self.database.as_ref(), "--database", DATABASE_URL_VARIABLE).map(parse).transpose()
    }

    /// Where counters are, unless in this process.
    pub fn redis(&self) -> anyhow::Result<Option<RedisUrl>> {
        let parse = |(text, source): (String, &str)| {
            text.parse().with_context(|| format!("the Redis URL of {source}"))
        };
        given(self.redis.as_ref(), "--redis", REDIS_URL_VARIABLE).map(parse).transpose()
    }
}

/// What the flag says, else the environment.
fn given(
    flag: Option<&String>,
    name: &'static str,
    variable: &'static str,
) -> Option<(String, &'static str)> {
    let of_flag = flag.map(|text| (text.clone(), name));
    of_flag.or_else(|| secret::of_environment(variable).map(|text| (text, variable)))
}

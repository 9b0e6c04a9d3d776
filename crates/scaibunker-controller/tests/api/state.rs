//! Where the controllers under test keep what they know. The whole suite runs twice: on SQLite and
//! the ledger in process, and with `SCAIBUNKER_TEST_STATE=servers` on PostgreSQL and Redis.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use scaibunker_controller::ControllerConfig;

use crate::servers::{postgres::PostgresServer, redis::RedisServer};

struct Servers {
    postgres: PostgresServer,
    redis: RedisServer,
    /// Each test's database and the number of its Redis database, by its directory: a controller that
    /// starts again finds what it left.
    given: Mutex<HashMap<PathBuf, (String, u32)>>,
}

/// One of each for the test program; they end with it.
fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| Servers {
        postgres: PostgresServer::start(),
        redis: RedisServer::start(),
        given: Mutex::default(),
    })
}

/// `config` with the state that this run of the suite is about.
pub fn choose(config: ControllerConfig) -> ControllerConfig {
    match std::env::var("SCAIBUNKER_TEST_STATE").as_deref() {
        Err(_) | Ok("in_process") => config,
        Ok("servers") => on_servers(config),
        Ok(other) => panic!("SCAIBUNKER_TEST_STATE is `in_process` or `servers`, not {other:?}"),
    }
}

/// `config` with PostgreSQL and Redis, whatever this run is about.
pub fn on_servers(config: ControllerConfig) -> ControllerConfig {
    let (database, redis) = given(&config.data_dir);
    ControllerConfig {
        database: Some(database.parse().unwrap()),
        redis: Some(servers().redis.url_of_database(redis).parse().unwrap()),
        ..config
    }
}

/// Empties the Redis database of a test, as a Redis that lost everything would be.
pub fn wipe_redis(dir: &Path) {
    let (_, number) = given(dir);
    servers().redis.wipe(number);
}

fn given(dir: &Path) -> (String, u32) {
    let servers = servers();
    let mut given = servers.given.lock().unwrap();
    let number = u32::try_from(given.len()).unwrap();
    let entry = given.entry(dir.to_owned());
    entry.or_insert_with(|| (servers.postgres.new_database(), number)).clone()
}

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
    if is_on_servers() { on_servers(config) } else { config }
}

/// Which run of the suite this is.
pub fn is_on_servers() -> bool {
    match std::env::var("SCAIBUNKER_TEST_STATE").as_deref() {
        Err(_) | Ok("in_process") => false,
        Ok("servers") => true,
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

/// Gives `to` what the controller on `from` has written down right now; its ledger is lost.
pub fn copy(from: &Path, to: &Path) {
    std::fs::copy(from.join("admin.key"), to.join("admin.key")).unwrap();
    if is_on_servers() {
        let (mut given, servers) = (servers().given.lock().unwrap(), servers());
        let number = u32::try_from(given.len()).unwrap();
        let copy = servers.postgres.copy_of_database(&given[from].0);
        given.insert(to.to_owned(), (copy, number));
        return;
    }
    for name in ["scaibunker.db", "scaibunker.db-wal"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
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

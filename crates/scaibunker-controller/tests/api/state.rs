//! Where the controllers under test keep what they know. The whole suite runs twice: on SQLite and
//! the ledger in process, and with `SCAIBUNKER_TEST_STATE=servers` on PostgreSQL and Redis.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use scaibunker_controller::ControllerConfig;

use crate::servers::{postgres::PostgresServer, redis::RedisServer};

/// Each test's database and the number of its Redis database, by its directory: a controller that
/// starts again finds what it left.
static GIVEN: Mutex<BTreeMap<PathBuf, (String, u32)>> = Mutex::new(BTreeMap::new());

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
        redis: Some(RedisServer::shared().url_of_database(redis).parse().unwrap()),
        ..config
    }
}

/// Gives `to` what the controller on `from` has written down right now; its ledger is lost.
pub fn copy(from: &Path, to: &Path) {
    std::fs::copy(from.join("admin.key"), to.join("admin.key")).unwrap();
    if is_on_servers() {
        let mut given = GIVEN.lock().unwrap();
        let number = u32::try_from(given.len()).unwrap();
        let copy = PostgresServer::shared().copy_of(&given[from].0);
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
    RedisServer::shared().wipe(number);
}

fn given(dir: &Path) -> (String, u32) {
    let mut given = GIVEN.lock().unwrap();
    let number = u32::try_from(given.len()).unwrap();
    let entry = given.entry(dir.to_owned());
    entry.or_insert_with(|| (PostgresServer::shared().database(), number)).clone()
}

/// Gives the controller on `other` the state of the one on `dir`.
pub fn share(dir: &Path, other: &Path) {
    let state = given(dir);
    GIVEN.lock().unwrap().insert(other.to_owned(), state);
}

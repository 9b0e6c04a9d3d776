//! Databases that are not there, and ones that go and come back.

use std::time::{Duration, Instant};

use scaibunker_api::bunker::BunkerStatus;
use sqlx::{Connection as _, Executor as _};
use tokio::time::timeout;

use jiff::Timestamp;

use super::{Database, Home, migration::connect, postgres};
use crate::{
    domain::bunker::Event,
    failure::chain,
    store::{DatabaseUrl, Store, StoreError},
    test_servers::postgres::{PASSWORD, PostgresServer},
};

fn shown(error: &StoreError) -> String {
    format!("{} {error:?}", chain(error))
}

#[tokio::test]
async fn a_database_that_is_not_there_is_an_error_without_its_password() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Takes connections and says nothing.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in [nobody, mute.local_addr().unwrap()] {
        let url = format!("postgres://me:{PASSWORD}@{address}/db").parse().unwrap();
        let opened = timeout(Duration::from_secs(15), Store::open(&url)).await.unwrap();
        let error = opened.unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
        assert!(!shown(&error).contains(PASSWORD), "{error:?}");
        let cause = if address == nobody { "refused" } else { "timed out" };
        assert!(chain(&error).contains(cause), "{}", chain(&error));
    }
    let missing: DatabaseUrl =
        PostgresServer::shared().database().replace("/test_", "/missing_").parse().unwrap();
    let error = Store::open(&missing).await.unwrap_err();
    assert!(!shown(&error).contains(PASSWORD), "{error:?}");
    let no_dir = DatabaseUrl::Sqlite("/nowhere/at/all/db".into());
    assert!(matches!(Store::open(&no_dir).await, Err(StoreError::Open { .. })));
}

/// Every connection of the pool is dead then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_restarts_costs_a_few_requests_at_most() {
    let mut server = PostgresServer::start();
    let database = Database { url: server.database().parse().unwrap(), _dir: None };
    let home = Home::open(&database).await;
    let bunker = home.bunker();
    home.insert(&bunker).await;
    // As many connections as there may be.
    futures_util::future::join_all((0..64).map(|_| home.store.bunker(bunker.id))).await;

    server.kill();
    let began = Instant::now();
    let error = home.store.bunker(bunker.id).await.unwrap_err();
    assert!(!shown(&error).contains(PASSWORD), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());

    server.start_again();
    let began = Instant::now();
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(home.store.bunker(bunker.id).await.is_err());
    }
    eprintln!("{failed} of 100 requests failed after a restart");
    assert!(failed <= 1, "{failed} of 100 requests failed after a restart");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(home.read(&bunker).await, bunker, "what was acknowledged is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_somebody_keeps_is_not_waited_for_for_ever() {
    let database = postgres();
    let home = Home::open(&database).await;
    let locked = home.bunker_in(BunkerStatus::Running, Vec::new()).await;
    let free = home.bunker_in(BunkerStatus::Running, Vec::new()).await;
    let mut somebody = connect(&database).await;
    let mut transaction = somebody.begin().await.unwrap();
    let lock = sqlx::query("UPDATE bunkers SET spec = spec WHERE id = $1");
    transaction.execute(lock.bind(locked.id.to_string())).await.unwrap();

    let paused = locked.apply(Event::Paused { reason: None, at: Timestamp::UNIX_EPOCH }).unwrap();
    let others = free.apply(Event::Paused { reason: None, at: Timestamp::UNIX_EPOCH }).unwrap();
    let began = Instant::now();
    let (waited, other) =
        tokio::join!(home.store.update_life(&paused), home.store.update_life(&others));
    assert!(matches!(waited, Err(StoreError::Query { .. })), "{waited:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(other.unwrap(), "whoever wants something else goes on");
    transaction.rollback().await.unwrap();
    assert!(home.store.update_life(&paused).await.unwrap());
}

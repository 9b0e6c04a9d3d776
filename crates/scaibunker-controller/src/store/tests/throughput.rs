//! How many bunkers a second the store takes: `cargo test --release -p scaibunker-controller --lib
//! store::tests::throughput -- --ignored --nocapture`.

use std::{sync::Arc, time::Instant};

use futures_util::future::join_all;

use super::{Database, Home, now, postgres, sqlite};
use crate::domain::bunker::Event;

const CLIENTS: usize = 32;
const PAIRS: usize = 20_000;

/// What a create and a delete write.
async fn pair(home: &Home) {
    let bunker = home.bunker();
    home.insert(&bunker).await;
    let at = now();
    let events =
        [Event::Started { at }, Event::EndRequested { reason: None }, Event::Released { at }];
    home.lead(bunker, &events).await;
}

async fn measure(name: &str, database: Database) {
    let home = Arc::new(Home::open(&database).await);
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let home = Arc::clone(&home);
        tokio::spawn(async move {
            for _ in 0..PAIRS / CLIENTS {
                pair(&home).await;
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let rate = PAIRS as f64 / began.elapsed().as_secs_f64();
    eprintln!("{name}: {rate:.0} pairs/s, {:.0} statements/s", 4.0 * rate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn on_sqlite() {
    measure("SQLite", sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn on_postgres() {
    measure("PostgreSQL", postgres()).await;
}

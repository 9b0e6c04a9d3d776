//! One suite for every ledger.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use scaibunker_api::{
    ids::{BunkerId, GroupId, QuotaProfileId, UserId, WorkerId},
    quota::{Caps, Resource},
};

use super::{Ledger, LedgerError, MemoryLedger, RateWindow, RedisLedger, SharedLedger};
use crate::{
    domain::quota::{Amounts, AppliedProfile, Bucket, Charge},
    test_servers::redis::RedisServer,
};

mod model;

pub(crate) fn redis() -> SharedLedger {
    redis_of(RedisServer::shared())
}

fn redis_of(server: &RedisServer) -> SharedLedger {
    let url = server.url().parse().unwrap();
    Arc::new(RedisLedger::new(&url, &UserId::generate().to_string()).unwrap())
}

pub(crate) fn memory() -> SharedLedger {
    Arc::new(MemoryLedger::default())
}

/// A test for each ledger.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod memory_ledger {
            $(#[tokio::test] async fn $name() { super::$name(super::memory()).await; })*
        }
        mod redis_ledger {
            $(#[tokio::test] async fn $name() { super::$name(super::redis()).await; })*
        }
    };
}

on_both!(
    what_was_never_filled_is_lost,
    a_reservation_is_all_or_nothing,
    steps_may_be_repeated,
    two_profiles_on_one_bucket_both_hold_and_count_once,
    a_paused_bunker_keeps_all_but_its_cpu,
    of_200_at_once_exactly_10_are_taken,
    what_is_wrong_can_be_corrected,
    large_sums_are_exact,
    rates_are_kept_in_every_window_or_none,
    who_is_alive_is_forgotten_in_time,
    a_random_history_is_the_models,
);

const CPU: Resource = Resource::CpuMillicores;

fn user() -> Bucket {
    Bucket::User(UserId::generate())
}

fn profile(bucket: Bucket, caps: Caps) -> AppliedProfile {
    AppliedProfile { id: QuotaProfileId::generate(), name: "p".to_owned(), bucket, caps }
}

fn bunkers(max: u64) -> Caps {
    Caps { max_concurrent_bunkers: Some(max), ..Caps::default() }
}

/// One bunker of 1000 millicores, 256 MiB and 64 MiB.
fn charge(buckets: &[Bucket]) -> Charge {
    let amounts = Amounts::from([1, 0, 1000, 256, 64, 0]);
    Charge { buckets: buckets.to_vec(), amounts, paused: false }
}

async fn filled(ledger: SharedLedger) -> SharedLedger {
    ledger.rebuild(&HashMap::new()).await.unwrap();
    ledger
}

async fn used(ledger: &SharedLedger, bucket: Bucket) -> Amounts {
    ledger.usage(&[bucket]).await.unwrap()[0]
}

async fn what_was_never_filled_is_lost(ledger: SharedLedger) {
    let (id, bucket) = (BunkerId::generate(), user());
    let charge = charge(&[bucket]);
    assert!(matches!(ledger.reserve(id, &charge, &[]).await, Err(LedgerError::Lost)));
    assert!(matches!(ledger.usage(&[bucket]).await, Err(LedgerError::Lost)));
    assert!(matches!(ledger.snapshot().await, Err(LedgerError::Lost)));
    ledger.ping().await.unwrap();
    ledger.rebuild(&HashMap::from([(id, charge.clone())])).await.unwrap();
    assert_eq!(used(&ledger, bucket).await, charge.amounts);
    // Another controller's was first.
    ledger.rebuild(&HashMap::new()).await.unwrap();
    assert_eq!(used(&ledger, bucket).await, charge.amounts);
}

async fn a_reservation_is_all_or_nothing(ledger: SharedLedger) {
    let ledger = filled(ledger).await;
    let (own, shared) = (user(), Bucket::Group(GroupId::generate()));
    let profiles = [profile(own, bunkers(5)), profile(shared, bunkers(1))];
    let charge = charge(&[own, shared]);
    ledger.reserve(BunkerId::generate(), &charge, &profiles).await.unwrap().unwrap();
    let refused = ledger.reserve(BunkerId::generate(), &charge, &profiles).await.unwrap();
    let exceeded = refused.unwrap_err();
    assert_eq!((exceeded.bucket, exceeded.resource), (shared, Resource::ConcurrentBunkers));
    assert_eq!((exceeded.current, exceeded.cap, exceeded.requested), (1, 1, 1));
    assert_eq!(exceeded.profile_id, profiles[1].id);
    assert_eq!(used(&ledger, own).await, charge.amounts);
    assert_eq!(used(&ledger, shared).await, charge.amounts);
}

async fn steps_may_be_repeated(ledger: SharedLedger) {
    let ledger = filled(ledger).await;
    let (id, bucket) = (BunkerId::generate(), user());
    let (charge, profiles) = (charge(&[bucket]), [profile(bucket, bunkers(1))]);
    for _ in 0..2 {
        ledger.reserve(id, &charge, &profiles).await.unwrap().unwrap();
        assert_eq!(used(&ledger, bucket).await, charge.amounts);
    }
    let paused = [ledger.pause(id).await.unwrap(), ledger.pause(id).await.unwrap()];
    assert_eq!(paused, [true, false]);
    for _ in 0..2 {
        ledger.resume(id, &profiles).await.unwrap().unwrap();
        assert_eq!(used(&ledger, bucket).await, charge.amounts);
    }
    let released = [ledger.release(id).await.unwrap(), ledger.release(id).await.unwrap()];
    assert_eq!(released, [true, false]);
    assert!(!ledger.pause(id).await.unwrap());
    ledger.resume(id, &profiles).await.unwrap().unwrap();
    assert_eq!(used(&ledger, bucket).await, Amounts::default());
    assert!(ledger.snapshot().await.unwrap().counters.is_empty());
}

async fn two_profiles_on_one_bucket_both_hold_and_count_once(ledger: SharedLedger) {
    let ledger = filled(ledger).await;
    let bucket = user();
    let memory = Caps { max_memory_mb: Some(600), ..Caps::default() };
    let profiles = [profile(bucket, bunkers(5)), profile(bucket, memory)];
    let charge = charge(&[bucket]);
    for _ in 0..2 {
        ledger.reserve(BunkerId::generate(), &charge, &profiles).await.unwrap().unwrap();
    }
    assert_eq!(used(&ledger, bucket).await.get(Resource::ConcurrentBunkers), 2);
    let refused = ledger.reserve(BunkerId::generate(), &charge, &profiles).await.unwrap();
    assert_eq!(refused.unwrap_err().resource, Resource::MemoryMb);
}

async fn a_paused_bunker_keeps_all_but_its_cpu(ledger: SharedLedger) {
    let ledger = filled(ledger).await;
    let bucket = user();
    let caps = Caps { max_cpu_millicores: Some(1500), ..bunkers(2) };
    let (charge, profiles) = (charge(&[bucket]), [profile(bucket, caps)]);
    let (first, second) = (BunkerId::generate(), BunkerId::generate());
    ledger.reserve(first, &charge, &profiles).await.unwrap().unwrap();
    assert!(ledger.pause(first).await.unwrap());
    assert_eq!(used(&ledger, bucket).await, charge.amounts.without_cpu());
    ledger.reserve(second, &charge, &profiles).await.unwrap().unwrap();
    let refused = ledger.resume(first, &profiles).await.unwrap().unwrap_err();
    assert_eq!((refused.resource, refused.current, refused.requested), (CPU, 1000, 1000));
    // It keeps its place: a third has none.
    let small = Charge { amounts: [1, 0, 100, 0, 0, 0].into(), ..charge.clone() };
    let refused = ledger.reserve(BunkerId::generate(), &small, &profiles).await.unwrap();
    assert_eq!(refused.unwrap_err().resource, Resource::ConcurrentBunkers);
    // What is given back is what was still held.
    ledger.release(first).await.unwrap();
    assert_eq!(used(&ledger, bucket).await, charge.amounts);
    // A profile that came to apply later does not count a bunker from before.
    let elsewhere = profile(user(), Caps { max_cpu_millicores: Some(1), ..Caps::default() });
    ledger.pause(second).await.unwrap();
    ledger.resume(second, &[elsewhere]).await.unwrap().unwrap();
    assert_eq!(used(&ledger, bucket).await, charge.amounts);
}

async fn of_200_at_once_exactly_10_are_taken(ledger: SharedLedger) {
    let ledger = filled(ledger).await;
    let bucket = user();
    let (charge, profiles) = (charge(&[bucket]), [profile(bucket, bunkers(10))]);
    let attempts = (0..200).map(|_| {
        let (ledger, charge, profiles) = (ledger.clone(), charge.clone(), profiles.clone());
        tokio::spawn(async move {
            ledger.reserve(BunkerId::generate(), &charge, &profiles).await.unwrap().is_ok()
        })
    });
    let taken = join_all(attempts).await.into_iter().filter(|taken| *taken.as_ref().unwrap());
    assert_eq!(taken.count(), 10);
    assert_eq!(used(&ledger, bucket).await.get(CPU), 10_000);
}

async fn what_is_wrong_can_be_corrected(ledger: SharedLedger) {
    let ledger = filled(ledger).await;
    let (id, bucket, other) = (BunkerId::generate(), user(), user());
    ledger.correct(id, Some(&charge(&[bucket]))).await.unwrap();
    let moved = Charge { paused: true, ..charge(&[other]) };
    ledger.correct(id, Some(&moved)).await.unwrap();
    let snapshot = ledger.snapshot().await.unwrap();
    assert_eq!(snapshot.charges, HashMap::from([(id, moved.clone())]));
    assert_eq!(snapshot.counters, HashMap::from([(other, moved.counted_in(other))]));
    ledger.recount().await.unwrap();
    assert_eq!(ledger.snapshot().await.unwrap(), snapshot);
    ledger.correct(id, None).await.unwrap();
    let empty = ledger.snapshot().await.unwrap();
    assert!(empty.charges.is_empty() && empty.counters.is_empty());
}

async fn large_sums_are_exact(ledger: SharedLedger) {
    let ledger = filled(ledger).await;
    let bucket = user();
    let largest = u64::from(u32::MAX);
    let charge = Charge {
        buckets: vec![bucket],
        amounts: [1, 1, largest, largest, largest, largest].into(),
        paused: false,
    };
    let caps = Caps { max_memory_mb: Some(1_000 * largest), ..Caps::default() };
    let profiles = [profile(bucket, caps)];
    for _ in 0..1_000 {
        ledger.reserve(BunkerId::generate(), &charge, &profiles).await.unwrap().unwrap();
    }
    assert_eq!(used(&ledger, bucket).await.get(Resource::MemoryMb), 1_000 * largest);
    let one = Charge { amounts: [1, 0, 0, 1, 0, 0].into(), ..charge };
    let refused = ledger.reserve(BunkerId::generate(), &one, &profiles).await.unwrap();
    assert_eq!(refused.unwrap_err().current, 1_000 * largest);
}

async fn rates_are_kept_in_every_window_or_none(ledger: SharedLedger) {
    // A whole minute of some time: the tests end within it.
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let later = |ms: i64| start.checked_add(jiff::SignedDuration::from_millis(ms)).unwrap();
    let window = |key: &str, limit| RateWindow { key: key.to_owned(), limit };
    let windows = [window("key:a", 3), window("user:a", 5)];
    for remaining in [2, 1, 0] {
        let states = ledger.admit(&windows, start).await.unwrap();
        assert_eq!(states[0].remaining, remaining);
        assert!(states.iter().all(|state| state.retry_after.is_none()));
    }
    let states = ledger.admit(&windows, start).await.unwrap();
    assert!(states[0].retry_after.is_some() && states[1].retry_after.is_none());
    assert_eq!(states[1].remaining, 2, "a refused request counts nowhere");
    // Another key of the same user has what the user has left.
    let other = [window("key:b", 3), window("user:a", 5)];
    for _ in 0..2 {
        let states = ledger.admit(&other, start).await.unwrap();
        assert!(states.iter().all(|state| state.retry_after.is_none()));
    }
    assert!(ledger.admit(&other, start).await.unwrap()[1].retry_after.is_some());
    // Who waits as told is let in.
    let wait = states[0].retry_after.unwrap();
    assert!(wait > Duration::from_secs(60) && wait < Duration::from_secs(120), "{wait:?}");
    let wait = i64::try_from(wait.as_millis()).unwrap();
    let early = ledger.admit(&windows[..1], later(wait - 10)).await.unwrap();
    assert!(early[0].retry_after.is_some());
    let states = ledger.admit(&windows[..1], later(wait)).await.unwrap();
    assert!(states[0].retry_after.is_none());
    let states = ledger.admit(&windows, later(600_000)).await.unwrap();
    assert_eq!((states[0].remaining, states[1].remaining), (2, 4));
}

async fn who_is_alive_is_forgotten_in_time(ledger: SharedLedger) {
    let (short, long) = (WorkerId::generate(), WorkerId::generate());
    ledger.note_alive(short, Duration::from_millis(50)).await.unwrap();
    ledger.note_alive(long, Duration::from_secs(600)).await.unwrap();
    let forgotten = async {
        while ledger.alive().await.unwrap() != [long] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), forgotten).await.unwrap();
}

async fn a_random_history_is_the_models(ledger: SharedLedger) {
    model::run(filled(ledger).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_loses_everything_is_filled_again_and_one_that_is_gone_is_an_error() {
    let mut server = RedisServer::start();
    let ledger = filled(redis_of(&server)).await;
    let (id, bucket) = (BunkerId::generate(), user());
    let charge = charge(&[bucket]);
    ledger.reserve(id, &charge, &[]).await.unwrap().unwrap();
    server.kill();
    let error = ledger.usage(&[bucket]).await.unwrap_err();
    assert!(matches!(error, LedgerError::Unavailable { .. }), "{error:?}");
    server.start_again();
    let lost = async {
        while !matches!(ledger.usage(&[bucket]).await, Err(LedgerError::Lost)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), lost).await.unwrap();
    ledger.rebuild(&HashMap::from([(id, charge.clone())])).await.unwrap();
    assert_eq!(used(&ledger, bucket).await, charge.amounts);
}

/// A server that takes connections and says nothing.
#[tokio::test]
async fn a_redis_that_stalls_holds_nobody_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap()).parse().unwrap();
    let ledger = RedisLedger::new(&url, "test").unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), ledger.ping()).await.unwrap();
    assert!(matches!(answer, Err(LedgerError::Unavailable { .. })));
}

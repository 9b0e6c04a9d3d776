use std::collections::HashSet;

use scaibunker_api::{
    bunker::BunkerStatus,
    ids::{BunkerId, GroupId, WorkerId},
};

use super::{Database, Home, now, seconds};
use crate::{
    domain::{
        actor::Scope,
        bunker::{Bunker, Event},
        quota::Bucket,
    },
    store::{BunkerFilter, LabelFilter},
};

pub(super) async fn a_bunker_is_read_as_it_was_written(database: Database) {
    let home = Home::open(&database).await;
    let plain = home.bunker();
    home.insert(&plain).await;
    assert_eq!(home.read(&plain).await, plain);

    let mut full = home.bunker();
    full.buckets = vec![Bucket::User(home.owner), Bucket::Group(GroupId::generate())];
    full.spec.name = Some("käse 🧀 'quoted' \"twice\"; --".to_owned());
    full.spec.label_set =
        [("a".to_owned(), "b".to_owned()), ("é".to_owned(), String::new())].into();
    full.spec.env_vars = [("A".to_owned(), "\n\t$1".to_owned())].into();
    full.spec.max_lifetime_s = None;
    full.spec.idle_timeout_s = Some(u64::MAX);
    full.spec.cpu_millicores = u32::MAX;
    home.insert(&full).await;
    assert_eq!(home.read(&full).await, full);

    let at = now();
    let reason = "its worker was lost".to_owned();
    let failed = home
        .lead(full, &[Event::Started { at, ip_address: None }, Event::Failed { reason, at }])
        .await;
    assert_eq!(home.read(&failed).await, failed);
    assert_eq!(home.store.bunker(BunkerId::generate()).await.unwrap(), None);
}

pub(super) async fn a_change_of_its_life_needs_the_latest_generation(database: Database) {
    let home = Home::open(&database).await;
    let read = home.bunker_in(BunkerStatus::Running, Vec::new()).await;
    let ending = read.apply(Event::EndRequested { reason: None }).unwrap();
    let failed = read.apply(Event::Failed { reason: "late".to_owned(), at: now() }).unwrap();
    assert!(home.store.update_life(&ending).await.unwrap());
    assert!(!home.store.update_life(&failed).await.unwrap());
    assert!(!home.store.update_life(&ending).await.unwrap(), "not twice either");
    assert_eq!(home.read(&read).await, ending);
    let unknown = home.bunker().apply(Event::Acknowledged).unwrap();
    assert!(!home.store.update_life(&unknown).await.unwrap());
}

pub(super) async fn an_edit_replaces_labels_or_changes_nothing(database: Database) {
    let home = Home::open(&database).await;
    let mut read = home.bunker();
    read.spec.label_set = [("old".to_owned(), "1".to_owned())].into();
    home.insert(&read).await;
    let edit = |label: &str| {
        let mut edited = read.clone();
        edited.spec.label_set = [(label.to_owned(), "1".to_owned())].into();
        edited.spec.max_lifetime_s = Some(7);
        edited.generation += 1;
        edited
    };
    let edited = edit("new");
    assert!(home.store.update_spec(&edited).await.unwrap());
    assert!(!home.store.update_spec(&edit("lost")).await.unwrap());
    assert_eq!(home.read(&read).await, edited);
    for (label, expected) in [("old", 0), ("new", 1), ("lost", 0)] {
        let labels = vec![LabelFilter { name: label.to_owned(), value: None }];
        let filter = BunkerFilter { labels, ..BunkerFilter::default() };
        let found = home.store.list_bunkers(Scope::Everything, &filter, 10).await.unwrap();
        assert_eq!(found.len(), expected, "{label}");
    }
    let expired = home.store.expired_bunkers(now() + seconds(8)).await.unwrap();
    assert_eq!(ids(&expired), HashSet::from([read.id]));
}

pub(super) async fn activity_only_moves_forward(database: Database) {
    let home = Home::open(&database).await;
    let bunker = home.bunker_in(BunkerStatus::Running, Vec::new()).await;
    let at = now();
    for (touched, expected) in [(0, 0), (-5, 0), (5, 5)] {
        home.store.touch_bunker(bunker.id, at + seconds(touched)).await.unwrap();
        let read = home.read(&bunker).await;
        assert_eq!(read.last_active_at, Some(at + seconds(expected)));
        assert_eq!(read.generation, bunker.generation);
    }
}

pub(super) async fn the_live_the_expired_and_the_idle_are_found(database: Database) {
    let home = Home::open(&database).await;
    let mut live = HashSet::new();
    for status in BunkerStatus::ALL {
        let bunker = home.bunker_in(status, Vec::new()).await;
        assert_eq!(bunker.status(), status);
        live.extend((!status.is_terminal()).then_some(bunker.id));
    }
    let of = async |worker| ids(&home.store.live_bunkers(worker).await.unwrap());
    assert_eq!(of(None).await, live);
    assert_eq!(of(Some(home.worker)).await, live);
    assert!(of(Some(WorkerId::generate())).await.is_empty());
    let counts = home.store.count_live_bunkers().await.unwrap();
    assert!(counts.len() == live.len() && counts.iter().all(|(_, count)| *count == 1));

    // All have an hour; who is ending already is not ended again.
    let in_an_hour = now() + seconds(3_601);
    assert!(home.store.expired_bunkers(now()).await.unwrap().is_empty());
    assert_eq!(home.store.expired_bunkers(in_an_hour).await.unwrap().len(), live.len() - 1);

    let mut patient = home.bunker();
    patient.spec.idle_timeout_s = Some(u64::MAX);
    let mut idle = home.bunker();
    idle.spec.idle_timeout_s = Some(60);
    let mut busy = idle.clone();
    busy.id = BunkerId::generate();
    for bunker in [&patient, &idle, &busy] {
        home.insert(bunker).await;
        home.lead(bunker.clone(), &[Event::Started { at: now(), ip_address: None }]).await;
    }
    let later = now() + seconds(61);
    home.store.touch_bunker(busy.id, later - seconds(59)).await.unwrap();
    let found = ids(&home.store.idle_bunkers(later).await.unwrap());
    assert_eq!(found, HashSet::from([idle.id]));
}

/// PostgreSQL takes no NUL in a text, whoever sent it.
pub(super) async fn text_that_a_database_refuses_is_stored_without_it(database: Database) {
    let home = Home::open(&database).await;
    let bunker = home.bunker_in(BunkerStatus::Running, Vec::new()).await;
    let reason = "worker says: \0\0".to_owned();
    let failed = bunker.apply(Event::Failed { reason, at: now() }).unwrap();
    assert!(home.store.update_life(&failed).await.unwrap());
    assert_eq!(home.read(&failed).await.status(), BunkerStatus::Failed);

    let labels = vec![LabelFilter { name: "a\0".to_owned(), value: Some("\0".to_owned()) }];
    let filter = BunkerFilter { labels, ..BunkerFilter::default() };
    assert!(home.store.list_bunkers(Scope::Everything, &filter, 10).await.unwrap().is_empty());
    assert!(home.store.idempotency_key(home.owner, "a\0").await.unwrap().is_none());
    assert!(home.store.user_by_subject("a\0").await.unwrap().is_none());
}

pub(super) fn ids(bunkers: &[Bunker]) -> HashSet<BunkerId> {
    bunkers.iter().map(|bunker| bunker.id).collect()
}

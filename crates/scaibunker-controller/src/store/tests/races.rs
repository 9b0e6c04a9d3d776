use std::sync::Arc;

use futures_util::future::join_all;
use scaibunker_api::{bunker::BunkerStatus, ids::ApiKeyId, image::RootConfig, worker::ReadyImage};

use super::{Database, Home, now};
use crate::{
    domain::{actor::Scope, bunker::Event},
    store::{BunkerFilter, Inserted},
};

const AT_ONCE: usize = 24;

pub(super) async fn of_many_changes_of_one_life_one_wins(database: Database) {
    let home = Home::open(&database).await;
    let read = home.bunker_in(BunkerStatus::Running, Vec::new()).await;
    let changes = (0..AT_ONCE).map(|number| {
        let reason = format!("change {number}");
        let changed = read.apply(Event::Failed { reason, at: now() }).unwrap();
        let store = home.store.clone();
        tokio::spawn(async move { store.update_life(&changed).await.unwrap().then_some(changed) })
    });
    let done = join_all(changes).await.into_iter().filter_map(Result::unwrap);
    let winners: Vec<_> = done.collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(home.read(&read).await, winners[0]);
}

pub(super) async fn of_many_requests_with_one_key_one_makes_a_bunker(database: Database) {
    let home = Arc::new(Home::open(&database).await);
    let requests = (0..AT_ONCE).map(|_| {
        let home = Arc::clone(&home);
        tokio::spawn(async move {
            let mut bunker = home.bunker();
            bunker.spec.label_set = [("a".to_owned(), "b".to_owned())].into();
            let inserted = home.store.insert_bunker(&bunker, Some(&home.key("one"))).await.unwrap();
            (inserted, bunker.id)
        })
    });
    let answers: Vec<_> = join_all(requests).await.into_iter().map(Result::unwrap).collect();
    let mut done = answers.iter().filter(|(inserted, _)| *inserted == Inserted::Done);
    let (_, id) = done.next().unwrap();
    assert!(done.next().is_none());
    assert!(answers.iter().all(|(inserted, _)| *inserted != Inserted::Exists));
    let all = BunkerFilter::default();
    let rows = home.store.list_bunkers(Scope::Everything, &all, 100).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [*id]);
    let key = home.store.idempotency_key(home.owner, "one").await.unwrap().unwrap();
    assert_eq!(key.resource_id, id.to_string());
}

/// Workers register the same images, and controllers note uses of the same keys, at the same time
/// and each in its own order: none may wait for another in a circle.
pub(super) async fn images_and_uses_in_any_order_hold_nobody_up(database: Database) {
    let home = Home::open(&database).await;
    let image = |number: usize| ReadyImage {
        name: format!("image-{number}"),
        digest: "sha256:0".to_owned(),
        size_bytes: 1,
        default_cpu_millicores: 1,
        default_memory_mb: 1,
        default_disk_mb: 1,
        config: RootConfig::default(),
    };
    let images: Vec<_> = (0..40).map(image).collect();
    let uses: Vec<_> = images.iter().map(|_| (ApiKeyId::generate(), now())).collect();
    let registrations = (0..AT_ONCE).map(|number| {
        let (store, mut images, mut uses) = (home.store.clone(), images.clone(), uses.clone());
        images.rotate_left(number);
        uses.rotate_left(number);
        tokio::spawn(async move {
            let records = store.put_built_in_images(&images, now()).await.unwrap();
            let names =
                |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>();
            assert_eq!(
                names(&mut records.iter().map(|record| &record.name)),
                names(&mut images.iter().map(|image| &image.name)),
            );
            store.touch_api_keys(&uses).await.unwrap();
        })
    });
    for done in join_all(registrations).await {
        done.unwrap();
    }
    assert_eq!(home.store.built_in_images().await.unwrap().len(), images.len());
}

pub(super) async fn two_controllers_may_start_at_once(database: Database) {
    let start = async || {
        let store = database.open().await;
        store.ensure_foundations(now()).await.unwrap();
        store
    };
    let (first, second) = if matches!(database.url, crate::store::DatabaseUrl::Sqlite(_)) {
        // A file is one controller's; it may start again.
        (start().await, start().await)
    } else {
        tokio::join!(start(), start())
    };
    for store in [&first, &second] {
        assert_eq!(
            store.list_quota_profiles(Scope::Everything, None, None, 9).await.unwrap().len(),
            1
        );
        assert_eq!(store.list_partners(None, None, 9).await.unwrap().len(), 1);
    }
}

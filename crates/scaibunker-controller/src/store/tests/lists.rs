use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use scaibunker_api::{
    bunker::{BunkerStatus, LifecycleMode},
    ids::{PartnerId, TenantId, UserId},
};

use super::{Database, Home, bunkers::ids};
use crate::{
    domain::actor::Scope,
    store::{BunkerFilter, LabelFilter},
};

fn label(name: &str, value: Option<&str>) -> LabelFilter {
    LabelFilter { name: name.to_owned(), value: value.map(str::to_owned) }
}

pub(super) async fn each_filter_holds_and_all_together(database: Database) {
    let home = Home::open(&database).await;
    let mut made = Vec::new();
    for (mode, labels) in [
        (LifecycleMode::Persistent, &[("a", "1"), ("b", "1")][..]),
        (LifecycleMode::Ephemeral, &[("a", "2")]),
        (LifecycleMode::Ephemeral, &[]),
    ] {
        let mut bunker = home.bunker();
        bunker.spec.lifecycle_mode = mode;
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        bunker.spec.label_set = labels.iter().map(owned).collect();
        home.insert(&bunker).await;
        made.push(bunker);
    }
    made.push(home.bunker_in(BunkerStatus::Failed, Vec::new()).await);
    assert_eq!(made[3].spec.lifecycle_mode, LifecycleMode::Ephemeral);
    let all = BunkerFilter::default();
    let labelled = |labels| BunkerFilter { labels, ..BunkerFilter::default() };
    let statuses = |statuses: &[_]| BunkerFilter { statuses: statuses.to_vec(), ..all.clone() };
    let persistent =
        BunkerFilter { lifecycle: Some(LifecycleMode::Persistent), ..BunkerFilter::default() };
    let everything = BunkerFilter {
        statuses: vec![BunkerStatus::Pending],
        labels: vec![label("a", None), label("b", Some("1"))],
        before: Some(made[1].id),
        ..persistent.clone()
    };
    for (filter, expected) in [
        (all.clone(), &[3, 2, 1, 0][..]),
        (statuses(&[BunkerStatus::Pending]), &[2, 1, 0]),
        (statuses(&[BunkerStatus::Failed, BunkerStatus::Paused]), &[3]),
        (persistent, &[0]),
        (labelled(vec![label("a", None)]), &[1, 0]),
        (labelled(vec![label("a", Some("2"))]), &[1]),
        (labelled(vec![label("a", Some("1")), label("b", None)]), &[0]),
        (labelled(vec![label("a", Some("%"))]), &[]),
        (BunkerFilter { before: Some(made[2].id), ..all }, &[1, 0]),
        (everything, &[0]),
    ] {
        let found = home.store.list_bunkers(Scope::Everything, &filter, 10).await.unwrap();
        let found: Vec<_> = found.iter().map(|bunker| bunker.id).collect();
        let expected: Vec<_> = expected.iter().map(|&number: &usize| made[number].id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

pub(super) async fn nobody_sees_more_than_the_scope(database: Database) {
    let home = Home::open(&database).await;
    let bunker = home.bunker();
    home.insert(&bunker).await;
    let partner = home.store.tenant(home.tenant).await.unwrap().unwrap().partner_id;
    for (scope, expected) in [
        (Scope::Everything, 1),
        (Scope::Partner(partner), 1),
        (Scope::Partner(PartnerId::generate()), 0),
        (Scope::Tenant(home.tenant), 1),
        (Scope::Tenant(TenantId::generate()), 0),
        (Scope::Own(home.tenant, home.owner), 1),
        (Scope::Own(home.tenant, UserId::generate()), 0),
        (Scope::Own(TenantId::generate(), home.owner), 0),
    ] {
        let found = home.store.list_bunkers(scope, &BunkerFilter::default(), 10).await.unwrap();
        assert_eq!(found.len(), expected, "{scope:?}");
    }
}

pub(super) async fn pages_neither_skip_nor_repeat_while_others_insert(database: Database) {
    let home = Arc::new(Home::open(&database).await);
    for _ in 0..60 {
        home.insert(&home.bunker()).await;
    }
    let all = BunkerFilter::default();
    let before = ids(&home.store.list_bunkers(Scope::Everything, &all, 100).await.unwrap());
    assert_eq!(before.len(), 60);
    let stop = Arc::new(AtomicBool::new(false));
    let others = (0..4).map(|_| {
        let (home, stop) = (Arc::clone(&home), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                home.insert(&home.bunker()).await;
            }
        })
    });
    let others: Vec<_> = others.collect();
    for _ in 0..5 {
        let (mut seen, mut filter) = (HashSet::new(), BunkerFilter::default());
        loop {
            let page = home.store.list_bunkers(Scope::Everything, &filter, 7).await.unwrap();
            let Some(last) = page.last() else { break };
            filter.before = Some(last.id);
            assert!(page.is_sorted_by_key(|bunker| std::cmp::Reverse(bunker.id)));
            for bunker in page {
                assert!(seen.insert(bunker.id), "{} came twice", bunker.id);
            }
        }
        assert!(seen.is_superset(&before), "{} were skipped", before.difference(&seen).count());
    }
    stop.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
}

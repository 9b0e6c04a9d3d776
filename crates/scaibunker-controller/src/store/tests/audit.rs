//! The audit log: filters, pages, retention.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    audit::AuditEntry,
    error::ErrorCode,
    ids::{ApiKeyId, EventId, RequestId},
};

use super::{
    Database,
    world::{World, at},
};
use crate::{domain::actor::Scope, store::AuditFilter};

impl World {
    fn entry(&self, action: &str, status: u16) -> AuditEntry {
        AuditEntry {
            id: EventId::generate(),
            at: at(1),
            request_id: RequestId::generate(),
            actor_id: Some(self.user),
            api_key_id: Some(ApiKeyId::generate()),
            tenant_id: Some(self.tenant),
            action: action.to_owned(),
            resource_id: None,
            ip: [127, 0, 0, 1].into(),
            status,
            error: (status >= 400).then_some(ErrorCode::Forbidden),
        }
    }

    async fn log(&self, entries: &[AuditEntry]) {
        self.store.insert_audit(&entries.iter().collect::<Vec<_>>()).await.unwrap();
    }

    async fn audit(&self, scope: Scope, filter: AuditFilter) -> Vec<AuditEntry> {
        self.store.list_audit(scope, &filter, 100).await.unwrap()
    }
}

pub(super) async fn entries_are_read_as_they_were_written(database: Database) {
    let world = World::on(&database).await;
    let full = world.entry("create_bunker", 403);
    let mut bare = world.entry("", 0);
    (bare.actor_id, bare.api_key_id, bare.tenant_id) = (None, None, None);
    bare.ip = "2001:db8::1".parse().unwrap();
    world.log(&[full.clone(), bare.clone()]).await;
    let all = world.audit(Scope::Everything, AuditFilter::default()).await;
    assert_eq!(all, [bare, full.clone()]);
    assert_eq!(world.audit(Scope::Tenant(world.tenant), AuditFilter::default()).await, [full]);
    // All or none.
    let (new, twice) = (world.entry("a", 200), world.entry("b", 200));
    assert!(world.store.insert_audit(&[&new, &twice, &twice]).await.is_err());
    assert_eq!(world.audit(Scope::Everything, AuditFilter::default()).await.len(), 2);
    // As many as one statement may take.
    let many: Vec<_> = (0..256).map(|_| world.entry("many", 200)).collect();
    world.log(&many).await;
}

pub(super) async fn filters_hold_together(database: Database) {
    let world = World::on(&database).await;
    let ok = world.entry("create_bunker", 201);
    let refused = world.entry("create_bunker", 403);
    let mut colleagues = world.entry("get_bunker", 200);
    colleagues.actor_id = Some(world.user_of(world.tenant).await);
    colleagues.resource_id = Some("bkr_1".to_owned());
    let foreign = world.tenant_of(world.partner("elsewhere").await).await;
    let mut foreigns = world.entry("create_bunker", 201);
    foreigns.tenant_id = Some(foreign);
    world.log(&[ok.clone(), refused.clone(), colleagues.clone(), foreigns.clone()]).await;

    let all = AuditFilter::default;
    let (everything, own) = (Scope::Everything, Scope::Own(world.tenant, world.user));
    let action = Some("create_bunker".to_owned());
    for (scope, filter, expected) in [
        (Scope::Partner(world.partner), all(), vec![&ok, &refused, &colleagues]),
        (Scope::Tenant(foreign), all(), vec![&foreigns]),
        (own, all(), vec![&ok, &refused]),
        (everything, AuditFilter { tenant_id: Some(foreign), ..all() }, vec![&foreigns]),
        (own, AuditFilter { tenant_id: Some(foreign), ..all() }, vec![]),
        (
            everything,
            AuditFilter { action: action.clone(), ..all() },
            vec![&ok, &refused, &foreigns],
        ),
        (own, AuditFilter { action, is_refused: Some(true), ..all() }, vec![&refused]),
        (own, AuditFilter { is_refused: Some(false), ..all() }, vec![&ok]),
        (
            everything,
            AuditFilter { resource_id: colleagues.resource_id.clone(), ..all() },
            vec![&colleagues],
        ),
        (everything, AuditFilter { actor_id: colleagues.actor_id, ..all() }, vec![&colleagues]),
        (everything, AuditFilter { before: Some(refused.id), ..all() }, vec![&ok]),
    ] {
        let mut expected = expected;
        expected.sort_by_key(|entry| std::cmp::Reverse(entry.id));
        let found = world.audit(scope, filter.clone()).await;
        assert!(found.iter().eq(expected), "{scope:?} {filter:?}: {found:?}");
    }
    let (since, until) = (Timestamp::now() - SignedDuration::from_hours(1), Timestamp::now());
    let window = |since, until| AuditFilter { since, until, ..AuditFilter::default() };
    let hour = SignedDuration::from_hours(1);
    assert_eq!(world.audit(everything, window(Some(since), None)).await.len(), 4);
    assert_eq!(world.audit(everything, window(Some(until + hour), None)).await.len(), 0);
    assert_eq!(world.audit(everything, window(None, Some(until + hour))).await.len(), 4);
    assert_eq!(world.audit(everything, window(None, Some(since))).await.len(), 0);
    assert_eq!(world.audit(everything, window(None, Some(Timestamp::MIN))).await.len(), 0);
}

pub(super) async fn pages_neither_skip_nor_repeat_while_others_write(database: Database) {
    let world = World::on(&database).await;
    let first: Vec<_> = (0..50).map(|_| world.entry("a", 200)).collect();
    world.log(&first).await;
    let writing = async {
        for _ in 0..50 {
            world.log(&[world.entry("b", 200)]).await;
        }
    };
    let reading = async {
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let filter = AuditFilter { before, ..AuditFilter::default() };
            let page = world.store.list_audit(Scope::Everything, &filter, 7).await.unwrap();
            seen.extend(page.iter().map(|entry| entry.id));
            before = match page.last() {
                Some(last) => Some(last.id),
                None => return seen,
            };
        }
    };
    let ((), seen) = tokio::join!(writing, reading);
    assert!(seen.is_sorted_by(|a, b| a > b));
    let seen: BTreeSet<_> = seen.into_iter().collect();
    assert!(first.iter().all(|entry| seen.contains(&entry.id)));
}

pub(super) async fn old_entries_are_forgotten(database: Database) {
    let world = World::on(&database).await;
    let entries: Vec<_> = (0..3).map(|_| world.entry("a", 200)).collect();
    world.log(&entries).await;
    let hour = SignedDuration::from_hours(1);
    let now = Timestamp::now();
    assert_eq!(world.store.forget_audit_before(now - hour).await.unwrap(), 0);
    assert_eq!(world.store.forget_audit_before(Timestamp::UNIX_EPOCH).await.unwrap(), 0);
    assert_eq!(world.store.forget_audit_before(now + hour).await.unwrap(), 3);
    assert!(world.audit(Scope::Everything, AuditFilter::default()).await.is_empty());
}

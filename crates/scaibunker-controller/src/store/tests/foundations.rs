use scaibunker_api::{
    audit::AuditEntry,
    iam::Role,
    ids::{ControllerId, EventId, RequestId},
};

use super::{Database, Home, now, seconds};
use crate::{
    domain::actor::Scope,
    store::{AuditFilter, Inserted, SeenController, StoreError},
};

pub(super) async fn keys_of_requests_keep_their_first_answer(database: Database) {
    let home = Home::open(&database).await;
    let (store, owner) = (&home.store, home.owner);
    let (first, second) = (home.bunker(), home.bunker());
    let key = home.key("k");
    assert_eq!(store.insert_bunker(&first, Some(&key)).await.unwrap(), Inserted::Done);
    assert_eq!(store.insert_bunker(&second, Some(&key)).await.unwrap(), Inserted::KeyTaken);
    assert_eq!(store.bunker(second.id).await.unwrap(), None);
    let stored = async || store.idempotency_key(owner, "k").await.unwrap().unwrap();
    assert_eq!(stored().await.answer, None);
    for answer in ["first", "second"] {
        store.keep_answer(owner, "k", answer).await.unwrap();
        assert_eq!(stored().await.answer.as_deref(), Some("first"));
    }
    assert_eq!(stored().await.resource_id, first.id.to_string());
    assert_eq!(store.forget_keys_before(now() - seconds(60)).await.unwrap(), 0);
    assert_eq!(store.forget_keys_before(now() + seconds(60)).await.unwrap(), 1);
    assert!(store.idempotency_key(owner, "k").await.unwrap().is_none());
}

pub(super) async fn the_bootstrap_key_is_replaced(database: Database) {
    let home = Home::open(&database).await;
    home.store.ensure_foundations(now()).await.unwrap();
    home.store.replace_bootstrap_key("another", "sgk_", now()).await.unwrap();
    assert!(home.store.api_key_by_hash("hash").await.unwrap().is_none());
    let key = home.store.api_key_by_hash("another").await.unwrap().unwrap();
    assert_eq!(key.user_id, home.owner);
    let account = home.store.account(home.owner).await.unwrap().unwrap();
    assert_eq!(account.standing.role, Role::SuperAdmin);
    assert!(account.standing.default_profile.is_default);

    // One entry that a database refuses must not cost the others.
    let entry = |action: &str, resource: Option<&str>| AuditEntry {
        id: EventId::generate(),
        at: now(),
        request_id: RequestId::generate(),
        actor_id: Some(home.owner),
        api_key_id: None,
        tenant_id: Some(home.tenant),
        action: action.to_owned(),
        resource_id: resource.map(str::to_owned),
        ip: "::1".parse().unwrap(),
        status: 200,
        error: None,
    };
    let entries = [entry("a", None), entry("b", Some("bkr_\0"))];
    home.store.insert_audit(&[&entries[0], &entries[1]]).await.unwrap();
    let filter = AuditFilter::default();
    let found = home.store.list_audit(Scope::Everything, &filter, 9).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1], entries[0]);
}

pub(super) async fn a_closed_store_is_an_error(database: Database) {
    let store = database.open().await;
    store.ping().await.unwrap();
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Query { .. })));
}

pub(super) async fn a_task_is_one_controllers_until_it_lets_go(database: Database) {
    let store = database.open().await;
    let controller = || SeenController {
        id: ControllerId::generate(),
        url: Some("http://c.test".to_owned()),
        seen_at: now(),
    };
    let (first, second) = (controller(), controller());
    for seen in [&first, &second] {
        store.note_controller(seen, now() - seconds(60)).await.unwrap();
    }
    assert_eq!(store.controllers().await.unwrap(), [first.clone(), second.clone()]);
    let (start, until) = (now(), now() + seconds(15));
    let hold = async |who: &SeenController, at, until| {
        store.hold_task("reaper", who.id, at, until).await.unwrap()
    };
    assert!(hold(&first, start, until).await);
    assert!(!hold(&second, start, until).await);
    // It may hold it for longer, and who comes too late has lost it.
    assert!(hold(&first, start, until + seconds(10)).await);
    assert!(!hold(&second, until + seconds(5), until + seconds(40)).await);
    assert!(hold(&second, until + seconds(11), until + seconds(40)).await);
    assert!(!hold(&first, until + seconds(12), until + seconds(50)).await);
    store.forget_controller(second.id).await.unwrap();
    assert!(hold(&first, until + seconds(12), until + seconds(50)).await);
    assert_eq!(store.controllers().await.unwrap(), std::slice::from_ref(&first));
    store.note_controller(&second, now() + seconds(1)).await.unwrap();
    assert!(store.controllers().await.unwrap().is_empty(), "both were not seen lately enough");
}

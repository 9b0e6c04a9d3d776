use scaibunker_api::{
    audit::AuditEntry,
    iam::Role,
    ids::{EventId, RequestId},
};

use super::{Database, Home, now, seconds};
use crate::{
    domain::actor::Scope,
    store::{AuditFilter, Inserted, StoreError},
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

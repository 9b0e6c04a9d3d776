//! What a credential's account is drawn from.

use std::collections::BTreeSet;

use scaibunker_api::{
    iam::{AccountStatus, Role, User},
    ids::UserId,
    permission::Permission,
};

use super::{
    Database,
    world::{World, a_user, at},
};

pub(super) async fn a_member_of_a_group_is_one_of_those_above_it(database: Database) {
    let world = World::on(&database).await;
    let top = world.group("top", None).await.id;
    let middle = world.group("middle", Some(top)).await.id;
    let bottom = world.group("bottom", Some(middle)).await.id;
    world.group("sibling", Some(top)).await;
    let groups = async || {
        let account = world.store.account(world.user).await.unwrap().unwrap();
        account.standing.group_ids.into_iter().collect::<BTreeSet<_>>()
    };
    assert!(groups().await.is_empty());
    world.store.add_member(bottom, world.user).await.unwrap();
    world.store.add_member(middle, world.user).await.unwrap();
    assert_eq!(groups().await, [top, middle, bottom].into());
    world.assign_to_group(top).await;
    let account = world.store.account(world.user).await.unwrap().unwrap();
    assert_eq!(account.standing.assigned.len(), 1);
    assert!(account.standing.default_profile.is_default);
}

pub(super) async fn grants_come_from_the_user_and_its_roles(database: Database) {
    let world = World::on(&database).await;
    let role = world.role("r", &[Permission::Root]).await.id;
    let user = User {
        custom_role_ids: vec![role],
        module_permissions: vec![Permission::Create],
        ..a_user(world.tenant)
    };
    world.store.insert_user(&user, None).await.unwrap();
    let account = world.store.account(user.id).await.unwrap().unwrap();
    assert_eq!(account.standing.granted, [Permission::Create, Permission::Root]);
    assert_eq!(account.standing.home.tenant_id, world.tenant);
    assert_eq!(account.standing.home.partner_id, world.partner);
    assert!(world.store.account(UserId::generate()).await.unwrap().is_none());
}

pub(super) async fn a_partners_admin_reaches_the_partners_tenants(database: Database) {
    let world = World::on(&database).await;
    let neighbour = world.tenant().await;
    let deleted = world.tenant().await;
    world.store.delete_tenant(deleted, at(9)).await.unwrap();
    world.tenant_of(world.partner("elsewhere").await).await;
    let admin = User { role: Role::PartnerAdmin, ..a_user(world.tenant) };
    world.store.insert_user(&admin, None).await.unwrap();
    let account = world.store.account(admin.id).await.unwrap().unwrap();
    assert_eq!(account.standing.partner_tenants, [world.tenant, neighbour].into());
    let account = world.store.account(world.user).await.unwrap().unwrap();
    assert!(account.standing.partner_tenants.is_empty());
}

pub(super) async fn what_is_suspended_or_deleted_is_told(database: Database) {
    let world = World::on(&database).await;
    let status = async || {
        let account = world.store.account(world.user).await.unwrap().unwrap();
        (account.tenant_status, account.user_status)
    };
    let (active, suspended) = (AccountStatus::Active, AccountStatus::Suspended);
    assert_eq!(status().await, (active, active));
    let mut tenant = world.store.tenant(world.tenant).await.unwrap().unwrap();
    tenant.status = suspended;
    world.store.update_tenant(&tenant).await.unwrap();
    assert_eq!(status().await, (suspended, active));
}

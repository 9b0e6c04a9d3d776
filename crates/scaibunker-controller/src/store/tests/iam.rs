//! Partners, tenants, users, keys and custom roles: what is unique, what is in use, what is seen.

use futures_util::future::join_all;
use scaibunker_api::{
    iam::{AccountStatus, ApiKey, CustomRole, Role, User},
    ids::{ApiKeyId, CustomRoleId, PartnerId, TenantId},
    permission::Permission,
};

use super::{
    Database,
    world::{World, a_user, at},
};
use crate::{
    domain::actor::Scope,
    store::{Inserted, Removed, StoredUser, Updated, UserFilter},
};

impl World {
    pub(super) async fn role(&self, name: &str, permissions: &[Permission]) -> CustomRole {
        let role = CustomRole {
            id: CustomRoleId::generate(),
            tenant_id: self.tenant,
            name: name.to_owned(),
            module_permissions: permissions.to_vec(),
            created_at: at(1),
        };
        let done = self.store.insert_custom_role(&role, None).await.unwrap();
        assert_eq!(done, Inserted::Done);
        role
    }

    async fn add(&self, user: &User) -> Inserted {
        self.store.insert_user(user, None).await.unwrap()
    }

    fn an_api_key(&self) -> ApiKey {
        ApiKey {
            id: ApiKeyId::generate(),
            user_id: self.user,
            tenant_id: self.tenant,
            name: "k".to_owned(),
            prefix: "sgk_abcd".to_owned(),
            created_at: at(1),
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
        }
    }
}

pub(super) async fn a_partners_name_is_unique_and_it_stays_while_it_has_tenants(
    database: Database,
) {
    let world = World::on(&database).await;
    let store = &world.store;
    let id = world.partner("a").await;
    let taken = scaibunker_api::iam::Partner {
        id: PartnerId::generate(),
        name: "a".to_owned(),
        created_at: at(1),
    };
    assert_eq!(store.insert_partner(&taken, None).await.unwrap(), Inserted::Exists);
    assert_eq!(store.rename_partner(id, "default").await.unwrap(), Updated::Exists);
    assert_eq!(store.rename_partner(id, "b").await.unwrap(), Updated::Done);
    assert_eq!(store.rename_partner(taken.id, "c").await.unwrap(), Updated::Missing);
    assert_eq!(store.partner(id).await.unwrap().unwrap().name, "b");
    assert_eq!(store.list_partners(Some(id), None, 10).await.unwrap().len(), 1);
    let newest = store.list_partners(None, None, 1).await.unwrap();
    let older = store.list_partners(None, Some(newest[0].id), 10).await.unwrap();
    assert_eq!((newest[0].id, older.len()), (id, 1));
    let tenant = world.tenant_of(id).await;
    assert_eq!(store.delete_partner(id).await.unwrap(), Removed::InUse("tenants"));
    assert_eq!(store.delete_tenant(tenant, at(9)).await.unwrap(), Removed::Done);
    assert_eq!(store.delete_partner(id).await.unwrap(), Removed::Done);
    assert_eq!(store.delete_partner(id).await.unwrap(), Removed::Missing);
    let orphan = world.a_tenant("orphan");
    let orphan = scaibunker_api::iam::Tenant { partner_id: id, ..orphan };
    assert!(store.insert_tenant(&orphan, None).await.is_err());
}

pub(super) async fn a_tenant_stays_while_it_has_anything(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let delete = async || store.delete_tenant(world.tenant, at(9)).await.unwrap();
    assert_eq!(delete().await, Removed::InUse("users"));
    let bunker = world.bunker().await;
    let ended =
        bunker.apply(crate::domain::bunker::Event::Failed { reason: "r".to_owned(), at: at(20) });
    assert!(store.update_life(&ended.unwrap()).await.unwrap());
    let group = world.group("g", None).await;
    let (role, profile) = (world.role("r", &[]).await, world.profile(Some(world.tenant)).await);
    store.replace_bootstrap_key("hash", "p", at(2)).await.unwrap();
    assert_eq!(store.delete_user(world.user, at(9)).await.unwrap(), Removed::Done);
    assert_eq!(delete().await, Removed::InUse("groups"));
    store.delete_group(&group).await.unwrap();
    assert_eq!(delete().await, Removed::InUse("custom roles"));
    store.delete_custom_role(role.id).await.unwrap();
    assert_eq!(delete().await, Removed::InUse("quota profiles"));
    store.delete_quota_profile(profile.id).await.unwrap();
    assert_eq!(delete().await, Removed::Done);
    assert_eq!(delete().await, Removed::Missing);
    assert_eq!(store.tenant(world.tenant).await.unwrap(), None);
    assert!(store.bunker(bunker.id).await.unwrap().is_some(), "what ran is still known");
    store.ensure_foundations(at(10)).await.unwrap();
    let left = store.list_tenants(Scope::Everything, None, None, 9).await.unwrap();
    assert!(left.iter().all(|tenant| tenant.id != world.tenant));
}

pub(super) async fn tenants_are_seen_within_the_scope(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let neighbour = world.tenant().await;
    let elsewhere = world.partner("elsewhere").await;
    let foreign = world.tenant_of(elsewhere).await;
    let listed = async |scope, partner, before| {
        let tenants = store.list_tenants(scope, partner, before, 10).await.unwrap();
        tenants.into_iter().map(|tenant| tenant.id).collect::<Vec<_>>()
    };
    let own = world.tenant;
    assert_eq!(listed(Scope::Everything, None, None).await, [foreign, neighbour, own]);
    assert_eq!(listed(Scope::Everything, None, Some(neighbour)).await, [own]);
    assert_eq!(listed(Scope::Everything, Some(elsewhere), None).await, [foreign]);
    assert_eq!(listed(Scope::Partner(world.partner), None, None).await, [neighbour, own]);
    assert_eq!(listed(Scope::Tenant(own), None, None).await, [own]);
    let mut tenant = store.tenant(own).await.unwrap().unwrap();
    (tenant.name, tenant.status) = ("renamed".to_owned(), AccountStatus::Suspended);
    assert_eq!(store.update_tenant(&tenant).await.unwrap(), Updated::Done);
    assert_eq!(store.tenant(own).await.unwrap(), Some(tenant.clone()));
    tenant.id = TenantId::generate();
    assert_eq!(store.update_tenant(&tenant).await.unwrap(), Updated::Missing);
}

pub(super) async fn a_user_is_read_as_it_was_written(database: Database) {
    let world = World::on(&database).await;
    let mut user = a_user(world.tenant);
    let mut roles = [world.role("a", &[]).await.id, world.role("b", &[]).await.id];
    roles.sort_unstable();
    user.custom_role_ids = roles.to_vec();
    user.module_permissions = vec![Permission::Create];
    user.email = Some("zoë@example.org".to_owned());
    user.oidc_subject = Some("subject".to_owned());
    assert_eq!(world.add(&user).await, Inserted::Done);
    assert_eq!(world.store.user(user.id).await.unwrap().unwrap().user, user);
    assert_eq!(world.store.user_by_subject("subject").await.unwrap(), Some(user.id));
    assert_eq!(world.store.user_by_subject("Subject").await.unwrap(), None);
    let taken = User { oidc_subject: user.oidc_subject.clone(), ..a_user(world.tenant) };
    assert_eq!(world.add(&taken).await, Inserted::Exists);
    assert!(world.store.user(taken.id).await.unwrap().is_none());
    let mut other = world.store.user(world.user).await.unwrap().unwrap();
    other.user.oidc_subject = user.oidc_subject.clone();
    assert_eq!(world.store.update_user(&other).await.unwrap(), Updated::Exists);

    let with_role = async |role| {
        let filter = UserFilter { custom_role: Some(role), ..UserFilter::default() };
        let users = world.store.list_users(Scope::Everything, &filter, 10).await.unwrap();
        users.into_iter().map(|stored| stored.user).collect::<Vec<_>>()
    };
    assert_eq!(with_role(roles[0]).await, [user]);
    assert_eq!(with_role(CustomRoleId::generate()).await, []);
}

pub(super) async fn of_two_changes_of_a_user_one_is_late(database: Database) {
    let world = World::on(&database).await;
    world.store.replace_bootstrap_key("hash", "p", at(2)).await.unwrap();
    let stored = world.store.user(world.user).await.unwrap().unwrap();
    let changed = |name: &str| {
        let user = User { name: name.to_owned(), ..stored.user.clone() };
        StoredUser { user, generation: stored.generation }
    };
    let changes = [changed("first"), changed("second")];
    let outcomes = join_all(changes.iter().map(|change| world.store.update_user(change))).await;
    let mut outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    outcomes.sort_by_key(|outcome| *outcome != Updated::Done);
    assert_eq!(outcomes, [Updated::Done, Updated::Missing]);
}

pub(super) async fn the_last_super_admin_stays_whoever_tries(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let admins: Vec<_> =
        (0..4).map(|_| User { role: Role::SuperAdmin, ..a_user(world.tenant) }).collect();
    for admin in &admins {
        assert_eq!(world.add(admin).await, Inserted::Done);
    }
    let demote = async |admin: &User| {
        let user = User { role: Role::TenantUser, ..admin.clone() };
        store.update_user(&StoredUser { user, generation: 0 }).await.unwrap() == Updated::Done
    };
    let delete =
        async |admin: &User| store.delete_user(admin.id, at(9)).await.unwrap() == Removed::Done;
    let (a, b, c, d) = tokio::join!(
        demote(&admins[0]),
        delete(&admins[1]),
        demote(&admins[2]),
        delete(&admins[3])
    );
    assert_eq!([a, b, c, d].into_iter().filter(|gone| *gone).count(), 3);
    assert_eq!(store.active_super_admins(TenantId::generate()).await.unwrap(), 1);
}

pub(super) async fn a_deleted_user_is_gone_with_all_that_it_had(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    store.replace_bootstrap_key("bootstrap", "p", at(2)).await.unwrap();
    let role = world.role("r", &[Permission::Create]).await;
    let mut stored = store.user(world.user).await.unwrap().unwrap();
    stored.user.custom_role_ids = vec![role.id];
    stored.user.oidc_subject = Some("subject".to_owned());
    assert_eq!(store.update_user(&stored).await.unwrap(), Updated::Done);
    let group = world.group("g", None).await;
    store.add_member(group.id, world.user).await.unwrap();
    store.insert_api_key(&world.an_api_key(), "hash", None).await.unwrap();
    let bunker = world.bunker().await;
    let delete = async || store.delete_user(world.user, at(9)).await.unwrap();
    assert_eq!(delete().await, Removed::InUse("live bunkers"));
    let ending = bunker.apply(crate::domain::bunker::Event::EndRequested { reason: None }).unwrap();
    store.update_life(&ending).await.unwrap();
    assert_eq!(delete().await, Removed::InUse("live bunkers"));
    let ended = ending.apply(crate::domain::bunker::Event::Released { at: at(8) }).unwrap();
    store.update_life(&ended).await.unwrap();
    assert_eq!(delete().await, Removed::Done);
    assert_eq!(delete().await, Removed::Missing);
    assert!(store.user(world.user).await.unwrap().is_none());
    assert!(store.account(world.user).await.unwrap().is_none());
    assert_eq!(store.user_by_subject("subject").await.unwrap(), None);
    let key = store.api_key_by_hash("hash").await.unwrap().unwrap();
    assert_eq!(key.revoked_at, Some(at(9)));
    assert_eq!(store.delete_custom_role(role.id).await.unwrap(), Removed::Done);
    assert_eq!(store.delete_group(&group).await.unwrap(), Removed::Done);
}

pub(super) async fn keys_are_found_by_their_hash_until_they_are_revoked(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let mut key = world.an_api_key();
    key.expires_at = Some(at(99));
    let idempotency = world.key("key");
    let insert = async |record: &ApiKey, hash: &str| {
        store.insert_api_key(record, hash, Some(&idempotency)).await.unwrap()
    };
    assert_eq!(insert(&key, "hash").await, Inserted::Done);
    assert_eq!(insert(&world.an_api_key(), "other").await, Inserted::KeyTaken);
    let taken = store.insert_api_key(&world.an_api_key(), "hash", None).await.unwrap();
    assert_eq!(taken, Inserted::Exists);
    let found = store.api_key_by_hash("hash").await.unwrap().unwrap();
    assert_eq!((found.id, found.user_id, found.expires_at), (key.id, world.user, key.expires_at));
    assert!(store.api_key_by_hash("HASH").await.unwrap().is_none());
    store.touch_api_keys(&[(key.id, at(50)), (ApiKeyId::generate(), at(50))]).await.unwrap();
    for time in [60, 70] {
        store.revoke_api_key(key.id, at(time)).await.unwrap();
    }
    (key.last_used_at, key.revoked_at) = (Some(at(50)), Some(at(60)));
    assert_eq!(store.api_key(key.id).await.unwrap(), Some(key.clone()));

    let own = Scope::Own(world.tenant, world.user);
    let neighbour = world.tenant().await;
    let list = async |scope, filter| store.list_api_keys(scope, filter, None, 9).await.unwrap();
    assert_eq!(list(own, (None, None)).await, [key.clone()]);
    assert_eq!(list(Scope::Everything, (Some(world.tenant), Some(world.user))).await.len(), 1);
    assert_eq!(list(Scope::Tenant(neighbour), (None, None)).await, []);
    assert_eq!(list(Scope::Partner(world.partner), (Some(neighbour), None)).await, []);
}

pub(super) async fn custom_roles_have_unique_names_and_stay_while_they_are_given(
    database: Database,
) {
    let world = World::on(&database).await;
    let store = &world.store;
    let (first, second) =
        (world.role("a", &[Permission::Create]).await, world.role("b", &[]).await);
    let taken = CustomRole { id: CustomRoleId::generate(), ..first.clone() };
    assert_eq!(store.insert_custom_role(&taken, None).await.unwrap(), Inserted::Exists);
    let was = &first.module_permissions;
    let renamed = CustomRole { name: "b".to_owned(), ..first.clone() };
    assert_eq!(store.update_custom_role(was, &renamed).await.unwrap(), Updated::Exists);
    let emptied = CustomRole { module_permissions: Vec::new(), ..first.clone() };
    assert_eq!(store.update_custom_role(was, &emptied).await.unwrap(), Updated::Done);
    assert_eq!(store.update_custom_role(was, &first).await.unwrap(), Updated::Missing);
    let mut both = [first.id, second.id];
    both.sort_unstable();
    assert_eq!(store.custom_roles(&both).await.unwrap().len(), 2);
    assert_eq!(store.custom_roles(&[]).await.unwrap(), []);
    let user = User { custom_role_ids: vec![first.id], ..a_user(world.tenant) };
    assert_eq!(world.add(&user).await, Inserted::Done);
    let removed = store.delete_custom_role(first.id).await.unwrap();
    assert_eq!(removed, Removed::InUse("users that have it"));
    assert_eq!(store.delete_custom_role(second.id).await.unwrap(), Removed::Done);
    let listed = store.list_custom_roles(Scope::Tenant(world.tenant), None, None, 9).await.unwrap();
    assert_eq!(listed, [emptied]);
}

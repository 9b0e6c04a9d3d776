//! Groups and their members.

use futures_util::future::join_all;
use scaibunker_api::{
    iam::Group,
    ids::{GroupId, TenantId},
};

use super::{
    Database,
    world::{World, at},
};
use crate::{
    domain::actor::Scope,
    store::{GroupRefused, Inserted, Removed, Updated, UserFilter},
};

impl World {
    pub(super) async fn group(&self, name: &str, parent_id: Option<GroupId>) -> Group {
        let group = a_group(self.tenant, name, parent_id);
        assert_eq!(self.store.insert_group(&group, None).await.unwrap(), Inserted::Done);
        group
    }
}

fn a_group(tenant_id: TenantId, name: &str, parent_id: Option<GroupId>) -> Group {
    let (id, name) = (GroupId::generate(), name.to_owned());
    Group { id, tenant_id, parent_id, name, created_at: at(1) }
}

pub(super) async fn a_groups_name_is_unique_in_its_tenant(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let mut group = world.group("a", None).await;
    let taken = a_group(world.tenant, "a", None);
    assert_eq!(store.insert_group(&taken, None).await.unwrap(), Inserted::Exists);
    let elsewhere = a_group(world.tenant().await, "a", None);
    let key = world.key("key");
    assert_eq!(store.insert_group(&elsewhere, Some(&key)).await.unwrap(), Inserted::Done);
    let other = a_group(world.tenant, "b", None);
    assert_eq!(store.insert_group(&other, Some(&key)).await.unwrap(), Inserted::KeyTaken);
    assert_eq!(store.group(other.id).await.unwrap(), None);
    world.group("b", Some(group.id)).await;
    group.name = "b".to_owned();
    assert_eq!(store.update_group(&group).await.unwrap(), Updated::Exists);
    group.name = "A".to_owned();
    assert_eq!(store.update_group(&group).await.unwrap(), Updated::Done);
    assert_eq!(store.group(group.id).await.unwrap(), Some(group));
    let missing = a_group(world.tenant, "c", None);
    assert_eq!(store.update_group(&missing).await.unwrap(), Updated::Missing);
    let stray = a_group(world.tenant, "c", Some(elsewhere.id));
    let refused = store.insert_group(&stray, None).await;
    assert!(matches!(refused, Err(GroupRefused::Rule(_))));
}

/// Two moves could be fine each, and a cycle together.
pub(super) async fn a_tree_stays_a_tree_however_many_move(database: Database) {
    let world = World::on(&database).await;
    let groups =
        [world.group("a", None).await, world.group("b", None).await, world.group("c", None).await];
    let below = |group: usize, parent: usize| Group {
        parent_id: Some(groups[parent].id),
        ..groups[group].clone()
    };
    let moves = [below(0, 1), below(1, 2), below(2, 0)];
    let moved = join_all(moves.iter().map(|group| world.store.update_group(group))).await;
    let refused = moved.iter().filter(|moved| matches!(moved, Err(GroupRefused::Rule(_))));
    assert_eq!(refused.count(), 1, "{moved:?}");
}

pub(super) async fn a_group_in_use_stays(database: Database) {
    let world = World::on(&database).await;
    let parent = world.group("parent", None).await;
    let child = world.group("child", Some(parent.id)).await;
    world.store.add_member(child.id, world.user).await.unwrap();
    let removed = world.store.delete_group(&parent).await.unwrap();
    assert_eq!(removed, Removed::InUse("groups below it"));
    let assigned = world.assign_to_group(child.id).await;
    let removed = world.store.delete_group(&child).await.unwrap();
    assert_eq!(removed, Removed::InUse("quota profiles assigned to it"));
    assert!(world.store.delete_assignment(assigned).await.unwrap());
    for group in [&child, &parent] {
        assert_eq!(world.store.delete_group(group).await.unwrap(), Removed::Done);
        assert_eq!(world.store.delete_group(group).await.unwrap(), Removed::Missing);
    }
    assert!(world.store.user(world.user).await.unwrap().is_some());
}

pub(super) async fn members_are_of_the_group_itself(database: Database) {
    let world = World::on(&database).await;
    let parent = world.group("parent", None).await;
    let child = world.group("child", Some(parent.id)).await;
    for _ in 0..2 {
        world.store.add_member(child.id, world.user).await.unwrap();
    }
    let members = async |group: GroupId| {
        let filter = UserFilter { group: Some(group), ..UserFilter::default() };
        world.store.list_users(Scope::Everything, &filter, 10).await.unwrap().len()
    };
    assert_eq!((members(child.id).await, members(parent.id).await), (1, 0));
    assert!(world.store.add_member(GroupId::generate(), world.user).await.is_err());
    assert!(world.store.remove_member(child.id, world.user).await.unwrap());
    assert!(!world.store.remove_member(child.id, world.user).await.unwrap());
}

pub(super) async fn pages_are_of_the_scope(database: Database) {
    let world = World::on(&database).await;
    let mut own = Vec::new();
    for n in 0..5 {
        own.insert(0, world.group(&format!("{n}"), None).await);
    }
    let neighbour = world.tenant().await;
    world.store.insert_group(&a_group(neighbour, "n", None), None).await.unwrap();
    let page = async |scope, tenant, before| {
        world.store.list_groups(scope, tenant, before, 3).await.unwrap()
    };
    assert_eq!(page(Scope::Tenant(world.tenant), None, None).await, own[..3]);
    assert_eq!(page(Scope::Tenant(world.tenant), None, Some(own[2].id)).await, own[3..]);
    assert_eq!(page(Scope::Partner(world.partner), Some(neighbour), None).await.len(), 1);
    assert_eq!(page(Scope::Tenant(world.tenant), Some(neighbour), None).await.len(), 0);
}

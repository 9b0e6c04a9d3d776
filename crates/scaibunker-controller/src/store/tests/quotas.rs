//! Quota profiles and assignments.

use futures_util::future::join_all;
use scaibunker_api::{
    ids::{GroupId, QuotaAssignmentId, QuotaProfileId, TenantId, UserId},
    quota::{Assignment, AssignmentMode, Caps, QuotaProfile, TargetKind},
};

use super::{
    Database,
    world::{World, at},
};
use crate::{
    domain::actor::Scope,
    store::{Inserted, Removed, Updated},
};

impl World {
    pub(super) async fn profile(&self, tenant_id: Option<TenantId>) -> QuotaProfile {
        let profile = a_profile(tenant_id);
        let done = self.store.insert_quota_profile(&profile, None).await.unwrap();
        assert_eq!(done, Inserted::Done);
        profile
    }

    async fn assign(
        &self,
        profile: QuotaProfileId,
        kind: TargetKind,
        target: String,
    ) -> Assignment {
        let assignment = an_assignment(profile, kind, target);
        let done = self.store.insert_assignment(&assignment, None).await.unwrap();
        assert_eq!(done, Inserted::Done);
        assignment
    }

    pub(super) async fn assign_to_group(&self, group: GroupId) -> QuotaAssignmentId {
        let profile = self.profile(Some(self.tenant)).await;
        self.assign(profile.id, TargetKind::Group, group.to_string()).await.id
    }
}

fn a_profile(tenant_id: Option<TenantId>) -> QuotaProfile {
    QuotaProfile {
        id: QuotaProfileId::generate(),
        tenant_id,
        name: "p".to_owned(),
        description: None,
        is_default: false,
        caps: Caps { max_concurrent_bunkers: Some(3), ..Caps::default() },
        created_at: at(1),
    }
}

fn an_assignment(profile_id: QuotaProfileId, kind: TargetKind, target: String) -> Assignment {
    Assignment {
        id: QuotaAssignmentId::generate(),
        profile_id,
        target_kind: kind,
        target_id: target,
        mode: AssignmentMode::Individual,
        created_at: at(1),
    }
}

pub(super) async fn a_profile_is_read_as_it_was_written(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let mut profile = world.profile(Some(world.tenant)).await;
    assert_eq!(store.quota_profile(profile.id).await.unwrap(), Some(profile.clone()));
    profile.description = Some("ä".to_owned());
    profile.caps.max_memory_mb = Some(u64::MAX);
    assert_eq!(store.update_quota_profile(&profile).await.unwrap(), Updated::Done);
    assert_eq!(store.quota_profile(profile.id).await.unwrap(), Some(profile));
    let missing = a_profile(None);
    assert_eq!(store.update_quota_profile(&missing).await.unwrap(), Updated::Missing);
    assert_eq!(store.delete_quota_profile(missing.id).await.unwrap(), Removed::Missing);
    let key = world.key("key");
    let (first, second) = (a_profile(None), a_profile(None));
    let insert = async |profile| store.insert_quota_profile(profile, Some(&key)).await.unwrap();
    assert_eq!((insert(&first).await, insert(&second).await), (Inserted::Done, Inserted::KeyTaken));
}

pub(super) async fn the_default_profile_stays_and_is_one(database: Database) {
    let world = World::on(&database).await;
    let second = QuotaProfile { is_default: true, ..a_profile(None) };
    let inserted = world.store.insert_quota_profile(&second, None).await.unwrap();
    assert_eq!(inserted, Inserted::Exists);
    let default = world.store.default_profile().await.unwrap();
    assert_ne!(default.id, second.id);
    let removed = world.store.delete_quota_profile(default.id).await.unwrap();
    assert_eq!(removed, Removed::Missing);
}

pub(super) async fn a_target_has_one_profile(database: Database) {
    let world = World::on(&database).await;
    let profile = world.profile(None).await.id;
    let many: Vec<_> =
        (0..8).map(|_| an_assignment(profile, TargetKind::User, world.user.to_string())).collect();
    let inserts = many.iter().map(|assignment| world.store.insert_assignment(assignment, None));
    let done = join_all(inserts).await.into_iter().map(Result::unwrap);
    assert_eq!(done.filter(|done| *done == Inserted::Done).count(), 1);
    let of_nothing =
        an_assignment(QuotaProfileId::generate(), TargetKind::User, UserId::generate().to_string());
    assert!(world.store.insert_assignment(&of_nothing, None).await.is_err());
}

pub(super) async fn profiles_in_use_stay(database: Database) {
    let world = World::on(&database).await;
    let profile = world.profile(None).await.id;
    let user = world.assign(profile, TargetKind::User, world.user.to_string()).await;
    let removed = world.store.delete_quota_profile(profile).await.unwrap();
    assert_eq!(removed, Removed::InUse("assignments of it"));
    assert!(!world.store.is_assigned_to_tenant(profile).await.unwrap());
    let tenant = world.assign(profile, TargetKind::Tenant, world.tenant.to_string()).await;
    assert!(world.store.is_assigned_to_tenant(profile).await.unwrap());
    for assignment in [user, tenant] {
        let found = world.store.assignment(assignment.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(&assignment));
        assert!(world.store.delete_assignment(assignment.id).await.unwrap());
        assert!(!world.store.delete_assignment(assignment.id).await.unwrap());
    }
    assert_eq!(world.store.delete_quota_profile(profile).await.unwrap(), Removed::Done);
}

pub(super) async fn lists_are_of_the_scope(database: Database) {
    let world = World::on(&database).await;
    let neighbour = world.tenant().await;
    let platform = world.profile(None).await;
    let own = world.profile(Some(world.tenant)).await;
    let neighbours = world.profile(Some(neighbour)).await;
    let default = world.store.default_profile().await.unwrap();
    let listed = async |scope, tenant| {
        world.store.list_quota_profiles(scope, tenant, None, 10).await.unwrap()
    };
    let newest_first = |mut profiles: Vec<QuotaProfile>| {
        profiles.sort_by_key(|profile| std::cmp::Reverse(profile.id));
        profiles
    };
    let all = vec![default.clone(), platform.clone(), own.clone(), neighbours.clone()];
    assert_eq!(listed(Scope::Everything, None).await, newest_first(all));
    let visible = vec![default, platform.clone(), own.clone()];
    assert_eq!(listed(Scope::Tenant(world.tenant), None).await, newest_first(visible));
    assert_eq!(listed(Scope::Tenant(world.tenant), Some(world.tenant)).await, [own]);
    assert_eq!(listed(Scope::Tenant(world.tenant), Some(neighbour)).await, []);

    let colleague = world.user_of(neighbour).await;
    let group = world.group("g", None).await.id;
    let user = world.assign(platform.id, TargetKind::User, colleague.to_string()).await;
    let group = world.assign(platform.id, TargetKind::Group, group.to_string()).await;
    let tenant = world.assign(platform.id, TargetKind::Tenant, neighbour.to_string()).await;
    for (scope, expected) in [
        (Scope::Partner(world.partner), vec![&user, &group, &tenant]),
        (Scope::Tenant(world.tenant), vec![&group]),
        (Scope::Tenant(neighbour), vec![&user, &tenant]),
    ] {
        let listed = world.store.list_assignments(scope, platform.id, None, 10).await.unwrap();
        let mut expected = expected;
        expected.sort_by_key(|assignment| std::cmp::Reverse(assignment.id));
        assert!(listed.iter().eq(expected), "{scope:?}: {listed:?}");
    }
}

pub(super) async fn what_is_assigned_to_a_user_is_found(database: Database) {
    let world = World::on(&database).await;
    let group = world.group("g", None).await.id;
    let (of_user, of_group) = (world.profile(None).await, world.profile(None).await);
    world.assign(of_user.id, TargetKind::User, world.user.to_string()).await;
    world.assign(of_group.id, TargetKind::Group, group.to_string()).await;
    world.assign(of_group.id, TargetKind::Tenant, world.tenant.to_string()).await;
    let found = async |groups: &[GroupId]| {
        let found = world.store.assigned_profiles(world.user, groups, world.tenant).await.unwrap();
        let mut found: Vec<_> = found
            .into_iter()
            .map(|(assignment, profile)| (assignment.target_kind.as_str(), profile.id))
            .collect();
        found.sort_unstable();
        found
    };
    let (user, tenant) = (("user", of_user.id), ("tenant", of_group.id));
    assert_eq!(found(&[]).await, [tenant, user]);
    assert_eq!(found(&[group]).await, [("group", of_group.id), tenant, user]);
}

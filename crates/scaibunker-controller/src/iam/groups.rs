//! Groups of a tenant's users, which quota profiles are assigned to.

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorBody,
    iam::{CreateGroup, Group, PatchGroup, User},
    ids::{GroupId, TenantId, UserId},
    permission::Permission,
};

use super::{Iam, not_found, removed, updated};
use crate::{
    creation::{Created, Creation},
    domain::{actor::Actor, iam::Checked as _},
    failure::Failure,
    store::{GroupRefused, UserFilter},
};

impl From<GroupRefused> for Failure {
    fn from(refused: GroupRefused) -> Self {
        match refused {
            GroupRefused::Rule(error) => Self::Refused(error),
            GroupRefused::Store(error) => Self::Store(error),
        }
    }
}

impl Iam {
    /// Makes a group.
    pub async fn create_group(
        &self,
        actor: &Actor,
        request: CreateGroup,
        key: Option<String>,
    ) -> Result<Created<Group>, Failure> {
        actor.require(Permission::AdminTenant)?;
        request.checked()?;
        let creation = match Creation::begin(&self.store, actor, key, "group", &request).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let tenant_id = request.tenant_id.unwrap_or(actor.tenant_id);
        self.tenant_in_reach(actor, tenant_id).await?;
        let group = Group {
            id: GroupId::generate(),
            tenant_id,
            parent_id: request.parent_id,
            name: request.name,
            created_at: Timestamp::now(),
        };
        let key = creation.key(&group);
        let inserted = self.store.insert_group(&group, key.as_ref()).await?;
        creation.finish(inserted, group, "name").await
    }

    /// A group of a tenant in the caller's reach.
    pub async fn group(&self, actor: &Actor, id: GroupId) -> Result<Group, Failure> {
        actor.require_read(Permission::AdminTenant)?;
        match self.store.group(id).await? {
            Some(group) if actor.reach.covers(group.tenant_id) => Ok(group),
            _ => Err(not_found("group", id)),
        }
    }

    /// The newest `limit` groups of the tenants in the caller's reach; of one, if one is given.
    pub async fn groups(
        &self,
        actor: &Actor,
        tenant: Option<TenantId>,
        before: Option<GroupId>,
        limit: usize,
    ) -> Result<Vec<Group>, Failure> {
        actor.require_read(Permission::AdminTenant)?;
        Ok(self.store.list_groups(actor.scope(), tenant, before, limit).await?)
    }

    /// Renames a group or moves it with those below it.
    pub async fn patch_group(
        &self,
        actor: &Actor,
        id: GroupId,
        patch: PatchGroup,
    ) -> Result<Group, Failure> {
        actor.require(Permission::AdminTenant)?;
        patch.checked()?;
        let mut group = self.group(actor, id).await?;
        if let Some(name) = patch.name {
            group.name = name;
        }
        if let Some(parent) = patch.parent_id {
            group.parent_id = parent;
        }
        updated(self.store.update_group(&group).await?, "group", "name")?;
        self.changed();
        Ok(group)
    }

    /// Deletes a group that has no groups below it and no quota profile.
    pub async fn delete_group(&self, actor: &Actor, id: GroupId) -> Result<(), Failure> {
        actor.require(Permission::AdminTenant)?;
        let group = self.group(actor, id).await?;
        removed(self.store.delete_group(&group).await?, "group", id)?;
        self.changed();
        Ok(())
    }

    /// The newest `limit` members of the group itself that were made before `before`.
    pub async fn members(
        &self,
        actor: &Actor,
        id: GroupId,
        before: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<User>, Failure> {
        self.group(actor, id).await?;
        let filter = UserFilter { group: Some(id), before, ..UserFilter::default() };
        self.users(actor, &filter, limit).await
    }

    /// Makes a user of the tenant a member; no error if it is one.
    pub async fn add_member(
        &self,
        actor: &Actor,
        id: GroupId,
        user_id: UserId,
    ) -> Result<(), Failure> {
        actor.require(Permission::AdminTenant)?;
        let group = self.group(actor, id).await?;
        let user = self.user(actor, user_id).await?;
        if user.tenant_id != group.tenant_id {
            let message = "the user and the group are of different tenants";
            return Err(ErrorBody::invalid("user_id", message).into());
        }
        self.store.add_member(id, user_id).await?;
        self.changed();
        Ok(())
    }

    /// Ends a membership.
    pub async fn remove_member(
        &self,
        actor: &Actor,
        id: GroupId,
        user_id: UserId,
    ) -> Result<(), Failure> {
        actor.require(Permission::AdminTenant)?;
        self.group(actor, id).await?;
        if !self.store.remove_member(id, user_id).await? {
            return Err(not_found("member", user_id));
        }
        self.changed();
        Ok(())
    }
}

//! Users, and what they are granted.

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorBody,
    iam::{AccountStatus, CreateUser, PatchUser, User},
    ids::UserId,
    permission::Permission,
};

use super::{Iam, not_found, removed, updated};
use crate::{
    creation::{Created, Creation},
    domain::{
        actor::{Actor, Scope},
        authority::{Home, Powers, check_manages},
        iam::{Checked as _, each_once},
    },
    failure::Failure,
    store::{StoredUser, Updated, UserFilter},
};

/// How often a change is tried again after others came first.
const ATTEMPTS: usize = 5;

impl Iam {
    /// Makes a user.
    pub async fn create_user(
        &self,
        actor: &Actor,
        request: CreateUser,
        key: Option<String>,
    ) -> Result<Created<User>, Failure> {
        actor.require(Permission::AdminTenant)?;
        request.checked()?;
        let creation = match Creation::begin(&self.store, actor, key, "user", &request).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let tenant_id = request.tenant_id.unwrap_or(actor.tenant_id);
        self.tenant_in_reach(actor, tenant_id).await?;
        let mut user = User {
            id: UserId::generate(),
            tenant_id,
            name: request.name,
            email: request.email,
            role: request.role,
            custom_role_ids: request.custom_role_ids,
            module_permissions: each_once(request.module_permissions),
            oidc_subject: request.oidc_subject,
            status: AccountStatus::Active,
            created_at: Timestamp::now(),
        };
        user.custom_role_ids.sort_unstable();
        user.custom_role_ids.dedup();
        check_manages(actor, &self.powers_of(&user).await?)?;
        let key = creation.key(&user);
        let inserted = self.store.insert_user(&user, key.as_ref()).await?;
        creation.finish(inserted, user, "oidc_subject").await
    }

    /// A user that the caller sees.
    pub async fn user(&self, actor: &Actor, id: UserId) -> Result<User, Failure> {
        Ok(self.visible_user(actor, id).await?.user)
    }

    /// The newest `limit` users that the caller sees and that pass the filter.
    pub async fn users(
        &self,
        actor: &Actor,
        filter: &UserFilter,
        limit: usize,
    ) -> Result<Vec<User>, Failure> {
        let found = self.store.list_users(actor.scope(), filter, limit).await?;
        Ok(found.into_iter().map(|found| found.user).collect())
    }

    /// Changes a user.
    pub async fn patch_user(
        &self,
        actor: &Actor,
        id: UserId,
        patch: PatchUser,
    ) -> Result<User, Failure> {
        actor.require(Permission::AdminTenant)?;
        patch.checked()?;
        self.change_user(actor, id, |user| {
            let patch = patch.clone();
            user.name = patch.name.unwrap_or_else(|| user.name.clone());
            user.email = patch.email.unwrap_or_else(|| user.email.clone());
            user.role = patch.role.unwrap_or(user.role);
            user.oidc_subject = patch.oidc_subject.unwrap_or_else(|| user.oidc_subject.clone());
            user.status = patch.status.unwrap_or(user.status);
            if let Some(mut roles) = patch.custom_role_ids {
                roles.sort_unstable();
                roles.dedup();
                user.custom_role_ids = roles;
            }
        })
        .await
    }

    /// Grants a user exactly these permissions beside its roles.
    pub async fn grant(
        &self,
        actor: &Actor,
        id: UserId,
        permissions: Vec<Permission>,
    ) -> Result<User, Failure> {
        actor.require(Permission::AdminTenant)?;
        let permissions = each_once(permissions);
        self.change_user(actor, id, |user| user.module_permissions.clone_from(&permissions)).await
    }

    /// Deletes a user without live bunkers. Its keys are revoked, and it is no member of a group.
    pub async fn delete_user(&self, actor: &Actor, id: UserId) -> Result<(), Failure> {
        actor.require(Permission::AdminTenant)?;
        self.managed_user(actor, id).await?;
        removed(self.store.delete_user(id, Timestamp::now()).await?, "user", id)?;
        self.changed();
        Ok(())
    }

    /// Changes a user whom the actor may manage as it is and as it will be.
    async fn change_user(
        &self,
        actor: &Actor,
        id: UserId,
        change: impl Fn(&mut User),
    ) -> Result<User, Failure> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            let was = self.managed_user(actor, id).await?;
            let mut user = was.user.clone();
            change(&mut user);
            check_manages(actor, &self.powers_of(&user).await?)?;
            let changed = StoredUser { user, generation: was.generation };
            match self.store.update_user(&changed).await? {
                Updated::Missing if attempts.next().is_some() => {}
                outcome => {
                    updated(outcome, "user", "oidc_subject")?;
                    self.changed();
                    return Ok(changed.user);
                }
            }
        }
    }

    /// A user that the actor may manage.
    pub(super) async fn managed_user(
        &self,
        actor: &Actor,
        id: UserId,
    ) -> Result<StoredUser, Failure> {
        let stored = self.visible_user(actor, id).await?;
        check_manages(actor, &self.powers_of(&stored.user).await?)?;
        Ok(stored)
    }

    async fn visible_user(&self, actor: &Actor, id: UserId) -> Result<StoredUser, Failure> {
        let sees = |user: &User| match actor.scope() {
            Scope::Own(_, own) => user.id == own,
            Scope::Everything | Scope::Partner(_) | Scope::Tenant(_) => {
                actor.reach.covers(user.tenant_id)
            }
        };
        match self.store.user(id).await? {
            Some(stored) if sees(&stored.user) => Ok(stored),
            _ => Err(not_found("user", id)),
        }
    }

    /// What a user may do, or would.
    pub(super) async fn powers_of(&self, user: &User) -> Result<Powers, Failure> {
        let tenant = self.store.tenant(user.tenant_id).await?;
        let tenant = tenant.ok_or_else(|| not_found("tenant", user.tenant_id))?;
        let roles = self.store.custom_roles(&user.custom_role_ids).await?;
        for id in &user.custom_role_ids {
            if !roles.iter().any(|role| role.id == *id && role.tenant_id == tenant.id) {
                let message = format!("the user's tenant has no custom role {id}");
                return Err(ErrorBody::invalid("custom_role_ids", message).into());
            }
        }
        let by_roles = roles.into_iter().flat_map(|role| role.module_permissions);
        let granted = by_roles.chain(user.module_permissions.iter().copied());
        let home = Home { tenant_id: tenant.id, partner_id: tenant.partner_id };
        Ok(Powers::of(user.role, granted, home))
    }
}

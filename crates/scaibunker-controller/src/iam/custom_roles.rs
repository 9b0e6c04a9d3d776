//! Custom roles: sets of permissions that a tenant gives names to.

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    iam::{CreateCustomRole, CustomRole, PatchCustomRole},
    ids::{CustomRoleId, TenantId},
    permission::Permission,
};

use super::{Iam, not_found, removed, updated};
use crate::{
    creation::{Created, Creation},
    domain::{
        actor::{Actor, Scope},
        authority::{check_manages, check_role},
        iam::{Checked as _, each_once},
    },
    failure::Failure,
    store::UserFilter,
};

/// Users whose powers are weighed before a role that they have is changed.
const MAX_HOLDERS: usize = 1_000;

impl Iam {
    /// Makes a custom role.
    pub async fn create_custom_role(
        &self,
        actor: &Actor,
        request: CreateCustomRole,
        key: Option<String>,
    ) -> Result<Created<CustomRole>, Failure> {
        actor.require(Permission::AdminTenant)?;
        request.checked()?;
        let creation =
            match Creation::begin(&self.store, actor, key, "custom role", &request).await? {
                Ok(creation) => creation,
                Err(repeated) => return Ok(repeated),
            };
        let tenant_id = request.tenant_id.unwrap_or(actor.tenant_id);
        self.tenant_in_reach(actor, tenant_id).await?;
        let role = CustomRole {
            id: CustomRoleId::generate(),
            tenant_id,
            name: request.name,
            module_permissions: each_once(request.module_permissions),
            created_at: Timestamp::now(),
        };
        check_role(actor, &role.module_permissions)?;
        let key = creation.key(&role);
        let inserted = self.store.insert_custom_role(&role, key.as_ref()).await?;
        creation.finish(inserted, role, "name").await
    }

    /// A role of a tenant in the caller's reach.
    pub async fn custom_role(
        &self,
        actor: &Actor,
        id: CustomRoleId,
    ) -> Result<CustomRole, Failure> {
        actor.require_read(Permission::AdminTenant)?;
        match self.store.custom_role(id).await? {
            Some(role) if actor.reach.covers(role.tenant_id) => Ok(role),
            _ => Err(not_found("custom role", id)),
        }
    }

    /// The newest `limit` roles of the tenants in the caller's reach; of one, if one is given.
    pub async fn custom_roles(
        &self,
        actor: &Actor,
        tenant: Option<TenantId>,
        before: Option<CustomRoleId>,
        limit: usize,
    ) -> Result<Vec<CustomRole>, Failure> {
        actor.require_read(Permission::AdminTenant)?;
        Ok(self.store.list_custom_roles(actor.scope(), tenant, before, limit).await?)
    }

    /// Changes a role, and with it what everybody who has it may do.
    pub async fn patch_custom_role(
        &self,
        actor: &Actor,
        id: CustomRoleId,
        patch: PatchCustomRole,
    ) -> Result<CustomRole, Failure> {
        actor.require(Permission::AdminTenant)?;
        patch.checked()?;
        let was = self.custom_role(actor, id).await?;
        let mut role = was.clone();
        if let Some(name) = patch.name {
            role.name = name;
        }
        if let Some(permissions) = patch.module_permissions {
            role.module_permissions = each_once(permissions);
            check_role(actor, &was.module_permissions)?;
            check_role(actor, &role.module_permissions)?;
            self.check_holders(actor, id).await?;
        }
        let outcome = self.store.update_custom_role(&was.module_permissions, &role).await?;
        updated(outcome, "custom role", "name")?;
        self.changed();
        Ok(role)
    }

    /// Deletes a role that nobody has.
    pub async fn delete_custom_role(&self, actor: &Actor, id: CustomRoleId) -> Result<(), Failure> {
        actor.require(Permission::AdminTenant)?;
        let role = self.custom_role(actor, id).await?;
        check_role(actor, &role.module_permissions)?;
        removed(self.store.delete_custom_role(id).await?, "custom role", id)
    }

    /// A role is not changed over the head of somebody with more powers than the actor's: what is
    /// added to it would reach as far as theirs.
    async fn check_holders(&self, actor: &Actor, id: CustomRoleId) -> Result<(), Failure> {
        let filter = UserFilter { custom_role: Some(id), ..UserFilter::default() };
        let holders = self.store.list_users(Scope::Everything, &filter, MAX_HOLDERS + 1).await?;
        if holders.len() > MAX_HOLDERS {
            let message =
                format!("more than {MAX_HOLDERS} users have the role; make another one for some");
            return Err(ErrorBody::new(ErrorCode::InUse, message).into());
        }
        for holder in holders {
            check_manages(actor, &self.powers_of(&holder.user).await?)?;
        }
        Ok(())
    }
}

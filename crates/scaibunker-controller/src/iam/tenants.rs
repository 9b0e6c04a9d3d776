//! Tenants: the platform's and their partner's to manage.

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    iam::{AccountStatus, CreateTenant, PatchTenant, Tenant},
    ids::{PartnerId, TenantId},
    permission::Permission,
};

use super::{Iam, last_super_admin, not_found, removed, updated};
use crate::{
    creation::{Created, Creation},
    domain::{
        actor::{Actor, Reach},
        authority::{Extent, covers},
        iam::Checked as _,
    },
    failure::Failure,
};

impl Iam {
    /// Makes a tenant.
    pub async fn create_tenant(
        &self,
        actor: &Actor,
        request: CreateTenant,
        key: Option<String>,
    ) -> Result<Created<Tenant>, Failure> {
        actor.require(Permission::Admin)?;
        request.checked()?;
        let creation = match Creation::begin(&self.store, actor, key, "tenant", &request).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let partner_id = match request.partner_id {
            Some(partner) => partner,
            None => self.tenant_in_reach(actor, actor.tenant_id).await?.partner_id,
        };
        let exists = self.store.partner(partner_id).await?.is_some();
        if !exists || !covers(&actor.reach, Extent::Partner(partner_id)) {
            return Err(not_found("partner", partner_id));
        }
        let tenant = Tenant {
            id: TenantId::generate(),
            partner_id,
            name: request.name,
            status: AccountStatus::Active,
            created_at: Timestamp::now(),
        };
        let key = creation.key(&tenant);
        let inserted = self.store.insert_tenant(&tenant, key.as_ref()).await?;
        // Its partner's admins reach it from now on.
        self.changed();
        creation.finish(inserted, tenant, "name").await
    }

    /// A tenant that the caller sees.
    pub async fn tenant(&self, actor: &Actor, id: TenantId) -> Result<Tenant, Failure> {
        self.tenant_in_reach(actor, id).await
    }

    /// The newest `limit` tenants that the caller sees; of one partner, if one is given.
    pub async fn tenants(
        &self,
        actor: &Actor,
        partner: Option<PartnerId>,
        before: Option<TenantId>,
        limit: usize,
    ) -> Result<Vec<Tenant>, Failure> {
        Ok(self.store.list_tenants(actor.scope(), partner, before, limit).await?)
    }

    /// Renames, suspends or restores a tenant.
    pub async fn patch_tenant(
        &self,
        actor: &Actor,
        id: TenantId,
        patch: PatchTenant,
    ) -> Result<Tenant, Failure> {
        actor.require(Permission::Admin)?;
        patch.checked()?;
        let mut tenant = self.tenant_in_reach(actor, id).await?;
        if let Some(status) = patch.status {
            if status == AccountStatus::Suspended {
                self.check_suspension(actor, id).await?;
            }
            tenant.status = status;
        }
        if let Some(name) = patch.name {
            tenant.name = name;
        }
        updated(self.store.update_tenant(&tenant).await?, "tenant", "name")?;
        self.changed();
        Ok(tenant)
    }

    /// Deletes a tenant that has nothing.
    pub async fn delete_tenant(&self, actor: &Actor, id: TenantId) -> Result<(), Failure> {
        actor.require(Permission::Admin)?;
        self.tenant_in_reach(actor, id).await?;
        removed(self.store.delete_tenant(id, Timestamp::now()).await?, "tenant", id)?;
        self.changed();
        Ok(())
    }

    /// Nobody shuts the platform's own admins out.
    async fn check_suspension(&self, actor: &Actor, id: TenantId) -> Result<(), Failure> {
        if !self.store.has_super_admin(id).await? {
            return Ok(());
        }
        if actor.reach != Reach::Platform {
            let message = "the tenant has a super admin; ask the platform's operator";
            return Err(ErrorBody::new(ErrorCode::Forbidden, message).into());
        }
        if self.store.active_super_admins(id).await? == 0 {
            return Err(last_super_admin());
        }
        Ok(())
    }
}

//! Profiles: a tenant's own, and the platform's.

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{QuotaProfileId, TenantId},
    permission::Permission,
    quota::{CreateQuotaProfile, PatchQuotaProfile, QuotaProfile},
};

use super::Quotas;
use crate::{
    creation::{Created, Creation},
    domain::{actor::Actor, iam::check_name, violations::Violations},
    failure::Failure,
    iam::{not_found, removed},
    store::Updated,
};

const MAX_DESCRIPTION_BYTES: usize = 1024;

impl Quotas {
    /// Makes a profile.
    pub async fn create_profile(
        &self,
        actor: &Actor,
        request: CreateQuotaProfile,
        key: Option<String>,
    ) -> Result<Created<QuotaProfile>, Failure> {
        actor.require(Permission::AdminTenant)?;
        check(Some(&request.name), request.description.as_deref())?;
        if request.platform && request.tenant_id.is_some() {
            let message = "a profile of the platform is no tenant's; give only one of both";
            return Err(ErrorBody::invalid("tenant_id", message).into());
        }
        let creation =
            match Creation::begin(&self.store, actor, key, "quota profile", &request).await? {
                Ok(creation) => creation,
                Err(repeated) => return Ok(repeated),
            };
        let tenant_id = if request.platform {
            actor.require_platform(Permission::Admin)?;
            None
        } else {
            let tenant = request.tenant_id.unwrap_or(actor.tenant_id);
            self.check_tenant(actor, tenant).await?;
            Some(tenant)
        };
        let profile = QuotaProfile {
            id: QuotaProfileId::generate(),
            tenant_id,
            caps: request.caps(),
            name: request.name,
            description: request.description,
            is_default: false,
            created_at: Timestamp::now(),
        };
        let key = creation.key(&profile);
        let inserted = self.store.insert_quota_profile(&profile, key.as_ref()).await?;
        creation.finish(inserted, profile, "name").await
    }

    /// A profile of the platform, or of a tenant in the caller's reach.
    pub async fn profile(
        &self,
        actor: &Actor,
        id: QuotaProfileId,
    ) -> Result<QuotaProfile, Failure> {
        actor.require_read(Permission::AdminTenant)?;
        let is_visible = |profile: &QuotaProfile| {
            profile.tenant_id.is_none_or(|tenant| actor.reach.covers(tenant))
        };
        match self.store.quota_profile(id).await? {
            Some(profile) if is_visible(&profile) => Ok(profile),
            _ => Err(not_found("quota profile", id)),
        }
    }

    /// The newest `limit` profiles that the caller sees; of one tenant alone, if one is given.
    pub async fn profiles(
        &self,
        actor: &Actor,
        tenant: Option<TenantId>,
        before: Option<QuotaProfileId>,
        limit: usize,
    ) -> Result<Vec<QuotaProfile>, Failure> {
        actor.require_read(Permission::AdminTenant)?;
        Ok(self.store.list_quota_profiles(actor.scope(), tenant, before, limit).await?)
    }

    /// Changes a profile. What is in use stays, also above a lowered cap.
    pub async fn patch_profile(
        &self,
        actor: &Actor,
        id: QuotaProfileId,
        patch: PatchQuotaProfile,
    ) -> Result<QuotaProfile, Failure> {
        actor.require(Permission::AdminTenant)?;
        check(patch.name.as_deref(), patch.description.as_ref().and_then(Option::as_deref))?;
        let mut profile = self.own_profile(actor, id).await?;
        profile.caps = patch.apply_to(profile.caps);
        if let Some(name) = patch.name {
            profile.name = name;
        }
        if let Some(description) = patch.description {
            profile.description = description;
        }
        match self.store.update_quota_profile(&profile).await? {
            Updated::Done => {}
            _ => return Err(not_found("quota profile", id)),
        }
        self.changed();
        Ok(profile)
    }

    /// Deletes a profile that is assigned to nobody.
    pub async fn delete_profile(&self, actor: &Actor, id: QuotaProfileId) -> Result<(), Failure> {
        actor.require(Permission::AdminTenant)?;
        if self.own_profile(actor, id).await?.is_default {
            let message = "this is the default profile: change its caps instead of deleting it";
            return Err(Failure::new(ErrorCode::InUse, message));
        }
        removed(self.store.delete_quota_profile(id).await?, "quota profile", id)
    }

    /// A profile that the caller may change: caps that hold for a whole tenant are not its own
    /// admins' to lift.
    async fn own_profile(
        &self,
        actor: &Actor,
        id: QuotaProfileId,
    ) -> Result<QuotaProfile, Failure> {
        let profile = self.profile(actor, id).await?;
        if profile.tenant_id.is_none() {
            actor.require_platform(Permission::Admin)?;
        } else if self.store.is_assigned_to_tenant(id).await? {
            actor.require(Permission::Admin)?;
        }
        Ok(profile)
    }

    pub(super) async fn check_tenant(&self, actor: &Actor, id: TenantId) -> Result<(), Failure> {
        if actor.reach.covers(id) && self.store.tenant(id).await?.is_some() {
            return Ok(());
        }
        Err(not_found("tenant", id))
    }
}

fn check(name: Option<&str>, description: Option<&str>) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    check_name(&mut faults, name);
    faults.text("description", description, 0..=MAX_DESCRIPTION_BYTES);
    faults.into_result()
}

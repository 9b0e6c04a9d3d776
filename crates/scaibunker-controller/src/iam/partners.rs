//! Partners: the platform's to manage.

use jiff::Timestamp;
use scaibunker_api::{
    iam::{CreatePartner, Partner, PatchPartner},
    ids::PartnerId,
    permission::Permission,
};

use super::{Iam, not_found, removed, updated};
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
    /// Makes a partner.
    pub async fn create_partner(
        &self,
        actor: &Actor,
        request: CreatePartner,
        key: Option<String>,
    ) -> Result<Created<Partner>, Failure> {
        actor.require_platform(Permission::Admin)?;
        request.checked()?;
        let creation = match Creation::begin(&self.store, actor, key, "partner", &request).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let partner =
            Partner { id: PartnerId::generate(), name: request.name, created_at: Timestamp::now() };
        let key = creation.key(&partner);
        let inserted = self.store.insert_partner(&partner, key.as_ref()).await?;
        creation.finish(inserted, partner, "name").await
    }

    /// A partner that the caller sees: every one, or its own.
    pub async fn partner(&self, actor: &Actor, id: PartnerId) -> Result<Partner, Failure> {
        let own = self.own_partner(actor).await?;
        let sees = covers(&actor.reach, Extent::Partner(id)) || own == Some(id);
        match self.store.partner(id).await? {
            Some(partner) if sees => Ok(partner),
            _ => Err(not_found("partner", id)),
        }
    }

    /// The newest `limit` partners that the caller sees.
    pub async fn partners(
        &self,
        actor: &Actor,
        before: Option<PartnerId>,
        limit: usize,
    ) -> Result<Vec<Partner>, Failure> {
        let only = match actor.reach {
            Reach::Platform => None,
            _ => self.own_partner(actor).await?,
        };
        Ok(self.store.list_partners(only, before, limit).await?)
    }

    /// Renames a partner.
    pub async fn patch_partner(
        &self,
        actor: &Actor,
        id: PartnerId,
        patch: PatchPartner,
    ) -> Result<Partner, Failure> {
        actor.require_platform(Permission::Admin)?;
        patch.checked()?;
        let mut partner = self.partner(actor, id).await?;
        if let Some(name) = patch.name {
            updated(self.store.rename_partner(id, &name).await?, "partner", "name")?;
            partner.name = name;
        }
        Ok(partner)
    }

    /// Deletes a partner without tenants.
    pub async fn delete_partner(&self, actor: &Actor, id: PartnerId) -> Result<(), Failure> {
        actor.require_platform(Permission::Admin)?;
        removed(self.store.delete_partner(id).await?, "partner", id)?;
        self.changed();
        Ok(())
    }

    async fn own_partner(&self, actor: &Actor) -> Result<Option<PartnerId>, Failure> {
        Ok(self.store.tenant(actor.tenant_id).await?.map(|tenant| tenant.partner_id))
    }
}

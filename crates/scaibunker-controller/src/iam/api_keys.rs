//! API keys: everybody's own, and those of whom one may manage.

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorCode,
    iam::{ApiKey, CreateApiKey, NewApiKey},
    ids::{ApiKeyId, TenantId, UserId},
};

use super::{Iam, not_found};
use crate::{
    creation::{Created, Creation},
    data_dir::{hash_of, new_api_key, prefix_of},
    domain::{
        actor::{Actor, Scope},
        iam::{Checked as _, check_expiry},
    },
    failure::{Failure, chain},
};

impl Iam {
    /// Makes a key. Its text is in this answer, and nowhere else ever.
    pub async fn create_api_key(
        &self,
        actor: &Actor,
        request: CreateApiKey,
        key: Option<String>,
    ) -> Result<Created<NewApiKey>, Failure> {
        request.checked()?;
        let creation = match Creation::begin(&self.store, actor, key, "key", &request).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let now = Timestamp::now();
        check_expiry(request.expires_at, now)?;
        let user_id = request.user_id.unwrap_or(actor.user_id);
        let tenant_id = if user_id == actor.user_id {
            actor.tenant_id
        } else {
            self.managed_user(actor, user_id).await?.user.tenant_id
        };
        let secret = new_api_key().map_err(|error| {
            tracing::error!(error = chain(&error), "cannot make an API key");
            Failure::new(ErrorCode::Internal, "the system gave no random bits; try again")
        })?;
        let record = ApiKey {
            id: ApiKeyId::generate(),
            user_id,
            tenant_id,
            name: request.name,
            prefix: prefix_of(&secret).to_owned(),
            created_at: now,
            expires_at: request.expires_at,
            last_used_at: None,
            revoked_at: None,
        };
        let key = creation.key(&NewApiKey { record: record.clone(), key: None });
        let inserted = self.store.insert_api_key(&record, &hash_of(&secret), key.as_ref()).await?;
        creation.finish(inserted, NewApiKey { record, key: Some(secret) }, "key").await
    }

    /// A key that the caller sees.
    pub async fn api_key(&self, actor: &Actor, id: ApiKeyId) -> Result<ApiKey, Failure> {
        let sees = |key: &ApiKey| match actor.scope() {
            Scope::Own(_, own) => key.user_id == own,
            Scope::Everything | Scope::Partner(_) | Scope::Tenant(_) => {
                actor.reach.covers(key.tenant_id)
            }
        };
        match self.store.api_key(id).await? {
            Some(key) if sees(&key) => Ok(key),
            _ => Err(not_found("API key", id)),
        }
    }

    /// The newest `limit` keys that the caller sees; of one tenant and one user, if given.
    pub async fn api_keys(
        &self,
        actor: &Actor,
        of: (Option<TenantId>, Option<UserId>),
        before: Option<ApiKeyId>,
        limit: usize,
    ) -> Result<Vec<ApiKey>, Failure> {
        Ok(self.store.list_api_keys(actor.scope(), of, before, limit).await?)
    }

    /// Makes a key worth nothing; no error if it is already.
    pub async fn revoke_api_key(&self, actor: &Actor, id: ApiKeyId) -> Result<(), Failure> {
        let key = self.api_key(actor, id).await?;
        if key.user_id != actor.user_id {
            self.managed_user(actor, key.user_id).await?;
        }
        self.store.revoke_api_key(id, Timestamp::now()).await?;
        self.changed();
        Ok(())
    }
}

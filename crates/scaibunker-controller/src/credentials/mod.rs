//! Whom a credential stands for: an API key's hash is looked up, a token of the OIDC issuer is
//! verified, and the account behind either is remembered for a moment.

mod cache;
mod last_used;
mod oidc;

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    iam::{AccountStatus, User},
    ids::{ApiKeyId, UserId},
};
use sha2::{Digest as _, Sha256};

pub use self::oidc::{Claims, OidcConfig, OidcError};
use self::{cache::Cache, last_used::LastUsed, oidc::Oidc};
use crate::{
    data_dir::KEY_PREFIX,
    domain::{
        account::Account,
        iam::is_email,
        quota::{AppliedProfile, PlatformMax},
    },
    failure::Failure,
    store::{Inserted, Store},
};

/// A longer credential is none.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;

const MAX_NAME_BYTES: usize = 128;

/// A caller that was recognised.
#[derive(Debug, Clone)]
pub struct Recognised {
    pub account: Arc<Account>,
    /// `None`: a token of the OIDC issuer.
    pub api_key_id: Option<ApiKeyId>,
    /// When the credential stops being accepted by itself.
    expires_at: Option<Timestamp>,
}

/// Recognises callers; one for the process.
pub struct Credentials {
    store: Store,
    platform_max: PlatformMax,
    oidc: Option<Oidc>,
    cache: Cache<Recognised>,
    last_used: LastUsed,
}

impl Credentials {
    /// Recognises the users in `store`. Without an issuer, only API keys are accepted.
    pub fn new(
        store: Store,
        platform_max: PlatformMax,
        oidc: Option<OidcConfig>,
    ) -> Result<Arc<Self>, OidcError> {
        let oidc = oidc.map(Oidc::new).transpose()?;
        let (cache, last_used) = (Cache::default(), LastUsed::default());
        Ok(Arc::new(Self { store, platform_max, oidc, cache, last_used }))
    }

    /// Whom `bearer` stands for. What is remembered is at most two seconds old, and no older than
    /// the last change that this process made.
    pub async fn actor_of(
        &self,
        bearer: &str,
        now: Timestamp,
    ) -> Result<(Arc<Account>, Option<ApiKeyId>), Failure> {
        if bearer.is_empty() || bearer.len() > MAX_CREDENTIAL_BYTES {
            return Err(unauthorized("this is neither an API key nor a token"));
        }
        let hash: [u8; 32] = Sha256::digest(bearer).into();
        let load = || self.recognise(bearer, &hash, now);
        let recognised = self.cache.get_or_load(hash, Instant::now(), load).await?;
        if recognised.expires_at.is_some_and(|at| at <= now) {
            return Err(expired(recognised.api_key_id));
        }
        Ok((recognised.account, recognised.api_key_id))
    }

    /// The quota profiles that hold for a user's bunkers, whoever asks.
    pub async fn quota_profiles(&self, id: UserId) -> Result<Arc<[AppliedProfile]>, Failure> {
        let stored = self.store.account(id).await?;
        let account = stored.map(|stored| Account::of(stored.standing, &self.platform_max));
        Ok(account.map(|account| account.quota_profiles).unwrap_or_default())
    }

    /// Forgets everything that is remembered: something has changed.
    pub fn forget_all(&self) {
        self.cache.clear();
    }

    /// Writes down which keys were used lately.
    pub async fn flush_uses(&self) -> Result<(), Failure> {
        let used = self.last_used.take();
        if used.is_empty() {
            return Ok(());
        }
        Ok(self.store.touch_api_keys(&used).await?)
    }

    async fn recognise(
        &self,
        bearer: &str,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Recognised, Failure> {
        if bearer.starts_with(KEY_PREFIX) {
            self.by_api_key(hash, now).await
        } else {
            self.by_token(bearer).await
        }
    }

    async fn by_api_key(&self, hash: &[u8; 32], now: Timestamp) -> Result<Recognised, Failure> {
        let Some(key) = self.store.api_key_by_hash(&crate::hex(hash)).await? else {
            return Err(unauthorized("this API key is not known, or was replaced"));
        };
        if key.revoked_at.is_some() {
            return Err(unauthorized("this API key was revoked; make a new one"));
        }
        if key.expires_at.is_some_and(|at| at <= now) {
            return Err(expired(Some(key.id)));
        }
        let account = self.active_account(key.user_id).await?;
        self.last_used.note(key.id, key.last_used_at, now);
        Ok(Recognised { account, api_key_id: Some(key.id), expires_at: key.expires_at })
    }

    async fn by_token(&self, token: &str) -> Result<Recognised, Failure> {
        let Some(oidc) = &self.oidc else {
            let message = "this is no API key (`sgk_…`), and no token issuer is configured";
            return Err(unauthorized(message));
        };
        let claims = oidc.claims(token).await?;
        let user_id = match self.store.user_by_subject(&claims.sub).await? {
            Some(user_id) => user_id,
            None => self.provision(oidc, &claims).await?,
        };
        let account = self.active_account(user_id).await?;
        Ok(Recognised { account, api_key_id: None, expires_at: Some(claims.expires_at()) })
    }

    async fn active_account(&self, id: UserId) -> Result<Arc<Account>, Failure> {
        let Some(stored) = self.store.account(id).await? else {
            return Err(unauthorized("the user was deleted"));
        };
        if stored.user_status == AccountStatus::Suspended {
            return Err(unauthorized("the user is suspended; ask an admin of the tenant"));
        }
        if stored.tenant_status == AccountStatus::Suspended {
            return Err(unauthorized("the tenant is suspended; ask the platform's operator"));
        }
        Ok(Arc::new(Account::of(stored.standing, &self.platform_max)))
    }

    /// Makes a user of somebody whom only the issuer knows, where the operator wants that.
    async fn provision(&self, oidc: &Oidc, claims: &Claims) -> Result<UserId, Failure> {
        let unknown = || {
            let message = "the token is good, but no user has its subject; ask an admin to set it \
                           as `oidc_subject` of a user";
            unauthorized(message)
        };
        let tenant_id = oidc.auto_provision_tenant().ok_or_else(unknown)?;
        if self.store.tenant(tenant_id).await?.is_none() {
            tracing::warn!(%tenant_id, "there is no such tenant to make users of the issuer in");
            return Err(unknown());
        }
        let user = User {
            id: UserId::generate(),
            tenant_id,
            name: name_of(claims),
            email: claims.email.clone().filter(|email| is_email(email)),
            role: Default::default(),
            custom_role_ids: Vec::new(),
            module_permissions: Vec::new(),
            oidc_subject: Some(claims.sub.clone()),
            status: AccountStatus::Active,
            created_at: Timestamp::now(),
        };
        match self.store.insert_user(&user, None).await? {
            Inserted::Done => {
                tracing::info!(user_id = %user.id, %tenant_id, "a user of the issuer was made");
                Ok(user.id)
            }
            // Another request of the same new user was quicker.
            Inserted::Exists | Inserted::KeyTaken => {
                self.store.user_by_subject(&claims.sub).await?.ok_or_else(unknown)
            }
        }
    }
}

/// The first text about the user that can be a name.
fn name_of(claims: &Claims) -> String {
    let texts = [&claims.name, &claims.preferred_username, &claims.email];
    let is_name = |text: &&String| {
        let fits = (1..=MAX_NAME_BYTES).contains(&text.len()) && text.trim() == text.as_str();
        fits && !text.chars().any(char::is_control)
    };
    let name = texts.into_iter().flatten().find(is_name);
    name.map_or_else(|| claims.sub.chars().take(32).collect(), Clone::clone)
}

fn expired(api_key: Option<ApiKeyId>) -> Failure {
    unauthorized(match api_key {
        Some(_) => "this API key has expired; make a new one",
        None => "this token has expired; get a new one from the issuer",
    })
}

fn unauthorized(message: &str) -> Failure {
    ErrorBody::new(ErrorCode::Unauthorized, message).into()
}

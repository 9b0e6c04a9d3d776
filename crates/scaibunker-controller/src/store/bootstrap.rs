//! What every database has from the first start on.

use jiff::Timestamp;
use scaibunker_api::{
    iam::{AccountStatus, ApiKey, Role, Tenant, User},
    ids::{ApiKeyId, QuotaProfileId, TenantId, UserId},
    quota::{Caps, QuotaProfile},
};

use super::{Store, StoreError, parsed};

/// Name of the key that is written to the data directory.
const BOOTSTRAP_KEY: &str = "bootstrap";

/// Name of the first tenant and of the first quota profile.
const DEFAULT: &str = "default";

impl Store {
    /// Makes sure that every tenant has a partner, and that there is a default quota profile, which
    /// caps nothing until an operator says so.
    pub async fn ensure_foundations(&self, now: Timestamp) -> Result<(), StoreError> {
        let partner = self.first_partner(now).await?;
        self.adopt_tenants(partner).await?;
        let profile = QuotaProfile {
            id: QuotaProfileId::generate(),
            tenant_id: None,
            name: DEFAULT.to_owned(),
            description: Some("For everyone to whom no other profile is assigned.".to_owned()),
            is_default: true,
            caps: Caps::default(),
            created_at: now,
        };
        self.insert_quota_profile(&profile, None).await?;
        self.ensure_default_group(now).await
    }

    /// Makes `hash` the one bootstrap key, of a super admin that is made if there is none.
    /// `prefix` are the key's first characters.
    pub async fn replace_bootstrap_key(
        &self,
        hash: &str,
        prefix: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (tenant_id, user_id) = match self.first_super_admin().await? {
            Some(admin) => admin,
            None => self.insert_first_admin(now).await?,
        };
        sqlx::query("DELETE FROM api_keys WHERE name = $1 AND user_id = $2")
            .bind(BOOTSTRAP_KEY)
            .bind(user_id.to_string())
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("delete the bootstrap key"))?;
        let key = ApiKey {
            id: ApiKeyId::generate(),
            user_id,
            tenant_id,
            name: BOOTSTRAP_KEY.to_owned(),
            prefix: prefix.to_owned(),
            created_at: now,
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
        };
        self.insert_api_key(&key, hash, None).await?;
        Ok(())
    }

    /// Whether there is a bootstrap key, which some controller has in its data directory.
    pub async fn has_bootstrap_key(&self) -> Result<bool, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT id FROM api_keys WHERE name = $1 AND revoked_at IS NULL LIMIT 1",
        )
        .bind(BOOTSTRAP_KEY)
        .fetch_optional(&self.readers)
        .await
        .map_err(StoreError::query("look for the bootstrap key"))?;
        Ok(row.is_some())
    }

    async fn first_super_admin(&self) -> Result<Option<(TenantId, UserId)>, StoreError> {
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT users.tenant_id, users.id FROM users \
             JOIN tenants ON tenants.id = users.tenant_id WHERE users.role = $1 \
             AND users.status = 'active' AND users.deleted_at IS NULL \
             AND tenants.status = 'active' ORDER BY users.id LIMIT 1",
        )
        .bind(Role::SuperAdmin.as_str())
        .fetch_optional(&self.writer)
        .await
        .map_err(StoreError::query("look for a super admin"))?;
        row.map(|(tenant, user)| {
            Ok((parsed("users.tenant_id", &tenant)?, parsed("users.id", &user)?))
        })
        .transpose()
    }

    async fn insert_first_admin(&self, now: Timestamp) -> Result<(TenantId, UserId), StoreError> {
        let partner_id = self.first_partner(now).await?;
        let tenant = Tenant {
            id: TenantId::generate(),
            partner_id,
            name: DEFAULT.to_owned(),
            status: AccountStatus::Active,
            created_at: now,
        };
        let user = User {
            id: UserId::generate(),
            tenant_id: tenant.id,
            name: "admin".to_owned(),
            email: None,
            role: Role::SuperAdmin,
            custom_role_ids: Vec::new(),
            module_permissions: Vec::new(),
            oidc_subject: None,
            status: AccountStatus::Active,
            created_at: now,
        };
        self.insert_tenant(&tenant, None).await?;
        self.insert_user(&user, None).await?;
        Ok((tenant.id, user.id))
    }
}

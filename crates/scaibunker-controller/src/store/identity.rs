//! Tenants, users and their API keys.

use jiff::Timestamp;
use scaibunker_api::{
    iam::Role,
    ids::{ApiKeyId, TenantId, UserId},
};

use super::{Store, StoreError, parsed, to_micros};

/// Name of the key that is written to the data directory.
const BOOTSTRAP_KEY: &str = "bootstrap";

/// Who an API key belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    pub user_id: UserId,
    pub tenant_id: TenantId,
    pub role: Role,
}

impl Store {
    /// The account behind an API key's hash.
    pub async fn account(&self, key_hash: &str) -> Result<Option<Account>, StoreError> {
        let row: Option<(String, String, String)> = sqlx::query_as(
            "SELECT users.id, users.tenant_id, users.role FROM api_keys \
             JOIN users ON users.id = api_keys.user_id WHERE api_keys.hash = $1",
        )
        .bind(key_hash)
        .fetch_optional(&self.readers)
        .await
        .map_err(StoreError::query("look up an API key"))?;
        row.map(|(user, tenant, role)| {
            Ok(Account {
                user_id: parsed("users.id", &user)?,
                tenant_id: parsed("users.tenant_id", &tenant)?,
                role: Role::from_text(&role)
                    .ok_or(role)
                    .map_err(StoreError::corrupt("users.role"))?,
            })
        })
        .transpose()
    }

    /// Makes `hash` the one bootstrap key, of a super admin that is made if there is none.
    pub async fn replace_bootstrap_key(
        &self,
        hash: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = || StoreError::query("store the bootstrap key");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let existing: Option<(String,)> =
            sqlx::query_as("SELECT id FROM users WHERE role = $1 ORDER BY id LIMIT 1")
                .bind(Role::SuperAdmin.as_str())
                .fetch_optional(&mut *transaction)
                .await
                .map_err(failed())?;
        let user_id = match existing {
            Some((id,)) => id,
            None => {
                let (tenant_id, user_id) =
                    (TenantId::generate().to_string(), UserId::generate().to_string());
                sqlx::query("INSERT INTO tenants (id, name, created_at) VALUES ($1, $2, $3)")
                    .bind(&tenant_id)
                    .bind("default")
                    .bind(to_micros(now))
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed())?;
                sqlx::query(
                    "INSERT INTO users (id, tenant_id, name, role, created_at) \
                     VALUES ($1, $2, $3, $4, $5)",
                )
                .bind(&user_id)
                .bind(&tenant_id)
                .bind("admin")
                .bind(Role::SuperAdmin.as_str())
                .bind(to_micros(now))
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
                user_id
            }
        };
        sqlx::query("DELETE FROM api_keys WHERE name = $1")
            .bind(BOOTSTRAP_KEY)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        sqlx::query(
            "INSERT INTO api_keys (id, user_id, name, hash, created_at) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(ApiKeyId::generate().to_string())
        .bind(user_id)
        .bind(BOOTSTRAP_KEY)
        .bind(hash)
        .bind(to_micros(now))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }
}

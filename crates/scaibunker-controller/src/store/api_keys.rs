//! API keys.

use jiff::Timestamp;
use scaibunker_api::{
    iam::ApiKey,
    ids::{ApiKeyId, TenantId, UserId},
};

use super::{
    IdempotencyKey, Inserted, Store, StoreError, from_micros, parsed, select::Select, to_micros,
};
use crate::domain::actor::Scope;

/// A key as it is presented: what it stands for, and whether it does.
#[derive(Debug, Clone)]
pub struct StoredApiKey {
    pub id: ApiKeyId,
    pub user_id: UserId,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct ApiKeyRow {
    id: String,
    user_id: String,
    tenant_id: String,
    name: String,
    prefix: String,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: ApiKeyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed("api_keys.id", &row.id)?,
            user_id: parsed("api_keys.user_id", &row.user_id)?,
            tenant_id: parsed("users.tenant_id", &row.tenant_id)?,
            name: row.name,
            prefix: row.prefix,
            created_at: from_micros("api_keys.created_at", row.created_at)?,
            expires_at: time("api_keys.expires_at", row.expires_at)?,
            last_used_at: time("api_keys.last_used_at", row.last_used_at)?,
            revoked_at: time("api_keys.revoked_at", row.revoked_at)?,
        })
    }
}

fn time(column: &'static str, micros: Option<i64>) -> Result<Option<Timestamp>, StoreError> {
    micros.map(|micros| from_micros(column, micros)).transpose()
}

/// A subquery, so that the conditions of lists find their columns by their bare names.
const KEYS: &str = "SELECT * FROM (SELECT api_keys.*, users.tenant_id FROM api_keys \
     JOIN users ON users.id = api_keys.user_id WHERE users.deleted_at IS NULL) AS keys WHERE 1 = 1";

impl Store {
    /// Writes a new key down, together with the idempotency key of its request.
    pub async fn insert_api_key(
        &self,
        record: &ApiKey,
        hash: &str,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert an API key");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO api_keys (id, user_id, name, hash, prefix, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(record.id.to_string())
        .bind(record.user_id.to_string())
        .bind(&record.name)
        .bind(hash)
        .bind(&record.prefix)
        .bind(to_micros(record.created_at))
        .bind(record.expires_at.map(to_micros))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        self.finish_insert(transaction, done, key, &record.id.to_string(), record.created_at).await
    }

    /// The key with this hash, of a user that is not deleted.
    pub async fn api_key_by_hash(&self, hash: &str) -> Result<Option<StoredApiKey>, StoreError> {
        type Row = (String, String, Option<i64>, Option<i64>, Option<i64>);
        let row: Option<Row> = sqlx::query_as(
            "SELECT id, user_id, expires_at, last_used_at, revoked_at FROM api_keys \
             WHERE hash = $1",
        )
        .bind(hash)
        .fetch_optional(&self.readers)
        .await
        .map_err(StoreError::query("look up an API key"))?;
        row.map(|(id, user_id, expires_at, last_used_at, revoked_at)| {
            Ok(StoredApiKey {
                id: parsed("api_keys.id", &id)?,
                user_id: parsed("api_keys.user_id", &user_id)?,
                expires_at: time("api_keys.expires_at", expires_at)?,
                last_used_at: time("api_keys.last_used_at", last_used_at)?,
                revoked_at: time("api_keys.revoked_at", revoked_at)?,
            })
        })
        .transpose()
    }

    /// One key.
    pub async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        let mut query = Select::new(KEYS);
        query.push(" AND id = ").bind(id.to_string());
        let rows: Vec<ApiKeyRow> = query.fetch_all(&self.readers, "read an API key").await?;
        rows.into_iter().next().map(ApiKey::try_from).transpose()
    }

    /// The newest `limit` keys in `scope` made before `before`; of one tenant and one user, if given.
    pub async fn list_api_keys(
        &self,
        scope: Scope,
        (tenant, user): (Option<TenantId>, Option<UserId>),
        before: Option<ApiKeyId>,
        limit: usize,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let mut query = Select::new(KEYS);
        query.in_scope(scope, " AND user_id = ");
        if let Some(tenant) = tenant {
            query.push(" AND tenant_id = ").bind(tenant.to_string());
        }
        if let Some(user) = user {
            query.push(" AND user_id = ").bind(user.to_string());
        }
        query.page(before, limit);
        let rows: Vec<ApiKeyRow> = query.fetch_all(&self.readers, "list API keys").await?;
        rows.into_iter().map(ApiKey::try_from).collect()
    }

    /// Makes a key worth nothing from `now` on; one that is already stays as it is.
    pub async fn revoke_api_key(&self, id: ApiKeyId, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
            .bind(id.to_string())
            .bind(to_micros(now))
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("revoke an API key"))?;
        Ok(())
    }

    /// Notes that keys were in use.
    pub async fn touch_api_keys(&self, used: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreError> {
        let failed = || StoreError::query("note the use of API keys");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        // In one order everywhere: controllers that note the same keys do not wait in a circle.
        let mut used = used.to_vec();
        used.sort_unstable_by_key(|(id, _)| *id);
        for (id, at) in &used {
            sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
                .bind(id.to_string())
                .bind(to_micros(*at))
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())
    }
}

//! Tenants.

use jiff::Timestamp;
use scaibunker_api::{
    iam::{Role, Tenant},
    ids::{PartnerId, TenantId},
};

use super::{
    IdempotencyKey, Inserted, Removed, Store, StoreError, Updated, from_micros, parsed,
    select::Select, status_from, status_text, to_micros,
};
use crate::domain::actor::Scope;

#[derive(sqlx::FromRow)]
struct TenantRow {
    id: String,
    partner_id: Option<String>,
    name: String,
    status: String,
    created_at: i64,
}

impl TryFrom<TenantRow> for Tenant {
    type Error = StoreError;

    fn try_from(row: TenantRow) -> Result<Self, StoreError> {
        let partner_id = row.partner_id.unwrap_or_default();
        Ok(Self {
            id: parsed("tenants.id", &row.id)?,
            partner_id: parsed("tenants.partner_id", &partner_id)?,
            name: row.name,
            status: status_from("tenants.status", &row.status)?,
            created_at: from_micros("tenants.created_at", row.created_at)?,
        })
    }
}

/// What keeps a tenant from being deleted, and how to find it.
const DEPENDENTS: [(&str, &str); 5] = [
    ("users", "SELECT COUNT(*) FROM users WHERE tenant_id = $1 AND deleted_at IS NULL"),
    ("groups", "SELECT COUNT(*) FROM user_groups WHERE tenant_id = $1"),
    ("custom roles", "SELECT COUNT(*) FROM custom_roles WHERE tenant_id = $1"),
    ("snapshots", "SELECT COUNT(*) FROM snapshots WHERE tenant_id = $1"),
    ("quota profiles", "SELECT COUNT(*) FROM quota_profiles WHERE tenant_id = $1"),
];

impl Store {
    /// Writes a new tenant down, together with the idempotency key of its request. The partner must
    /// exist.
    pub async fn insert_tenant(
        &self,
        tenant: &Tenant,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a tenant");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO tenants (id, partner_id, name, status, created_at) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(tenant.id.to_string())
        .bind(tenant.partner_id.to_string())
        .bind(&tenant.name)
        .bind(status_text(tenant.status))
        .bind(to_micros(tenant.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let id = tenant.id.to_string();
        self.finish_insert(transaction, done, key, &id, tenant.created_at).await
    }

    /// One tenant.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        let row: Option<TenantRow> =
            sqlx::query_as("SELECT * FROM tenants WHERE id = $1 AND deleted_at IS NULL")
                .bind(id.to_string())
                .fetch_optional(&self.readers)
                .await
                .map_err(StoreError::query("read a tenant"))?;
        row.map(Tenant::try_from).transpose()
    }

    /// The newest `limit` tenants in `scope` made before `before`; of one partner, if one is given.
    pub async fn list_tenants(
        &self,
        scope: Scope,
        partner: Option<PartnerId>,
        before: Option<TenantId>,
        limit: usize,
    ) -> Result<Vec<Tenant>, StoreError> {
        let mut query = Select::new("SELECT * FROM tenants WHERE deleted_at IS NULL");
        match scope {
            Scope::Everything => {}
            Scope::Partner(own) => {
                query.push(" AND partner_id = ").bind(own.to_string());
            }
            Scope::Tenant(own) | Scope::Own(own, _) => {
                query.push(" AND id = ").bind(own.to_string());
            }
        }
        if let Some(partner) = partner {
            query.push(" AND partner_id = ").bind(partner.to_string());
        }
        query.page(before, limit);
        let rows: Vec<TenantRow> = query.fetch_all(&self.readers, "list tenants").await?;
        rows.into_iter().map(Tenant::try_from).collect()
    }

    /// Writes a tenant's new name and status down.
    pub async fn update_tenant(&self, tenant: &Tenant) -> Result<Updated, StoreError> {
        let done = sqlx::query(
            "UPDATE tenants SET name = $2, status = $3 WHERE id = $1 AND deleted_at IS NULL",
        )
        .bind(tenant.id.to_string())
        .bind(&tenant.name)
        .bind(status_text(tenant.status))
        .execute(&self.writer)
        .await;
        Updated::of(done, "update a tenant")
    }

    /// Deletes a tenant that has nothing. Its row stays for the bunkers that it had.
    pub async fn delete_tenant(&self, id: TenantId, now: Timestamp) -> Result<Removed, StoreError> {
        let failed = || StoreError::query("delete a tenant");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        for (what, count) in DEPENDENTS {
            let (count,): (i64,) = sqlx::query_as(count)
                .bind(id.to_string())
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed())?;
            if count > 0 {
                return Ok(Removed::InUse(what));
            }
        }
        sqlx::query(
            "DELETE FROM quota_assignments WHERE target_kind = 'tenant' AND target_id = $1",
        )
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let done = sqlx::query(
            "UPDATE tenants SET deleted_at = $2, partner_id = NULL \
             WHERE id = $1 AND deleted_at IS NULL",
        )
        .bind(id.to_string())
        .bind(to_micros(now))
        .execute(&mut *transaction)
        .await;
        let removed = Removed::of(done, "bunkers", "delete a tenant")?;
        transaction.commit().await.map_err(failed())?;
        Ok(removed)
    }

    /// How many super admins there are in all tenants but `except`, with nothing suspended.
    pub async fn active_super_admins(&self, except: TenantId) -> Result<i64, StoreError> {
        let (count,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM users JOIN tenants ON tenants.id = users.tenant_id \
             WHERE users.role = $1 AND users.status = 'active' AND users.deleted_at IS NULL \
             AND tenants.status = 'active' AND tenants.id <> $2",
        )
        .bind(Role::SuperAdmin.as_str())
        .bind(except.to_string())
        .fetch_one(&self.writer)
        .await
        .map_err(StoreError::query("count the super admins"))?;
        Ok(count)
    }

    /// Whether a tenant has a super admin.
    pub async fn has_super_admin(&self, tenant: TenantId) -> Result<bool, StoreError> {
        let (count,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM users WHERE tenant_id = $1 AND role = $2 AND deleted_at IS NULL",
        )
        .bind(tenant.to_string())
        .bind(Role::SuperAdmin.as_str())
        .fetch_one(&self.readers)
        .await
        .map_err(StoreError::query("look for super admins"))?;
        Ok(count > 0)
    }

    /// Gives every tenant without a partner this one.
    pub(super) async fn adopt_tenants(&self, partner: PartnerId) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE tenants SET partner_id = $1 WHERE partner_id IS NULL AND deleted_at IS NULL",
        )
        .bind(partner.to_string())
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("give tenants a partner"))?;
        Ok(())
    }
}

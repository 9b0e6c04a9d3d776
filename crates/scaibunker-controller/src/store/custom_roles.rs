//! Custom roles.

use scaibunker_api::{
    iam::CustomRole,
    ids::{CustomRoleId, TenantId},
    permission::Permission,
};

use super::{
    IdempotencyKey, Inserted, Removed, Store, StoreError, Updated, from_json, from_micros, parsed,
    select::Select, to_json, to_micros,
};
use crate::domain::actor::Scope;

#[derive(sqlx::FromRow)]
struct CustomRoleRow {
    id: String,
    tenant_id: String,
    name: String,
    module_permissions: String,
    created_at: i64,
}

impl TryFrom<CustomRoleRow> for CustomRole {
    type Error = StoreError;

    fn try_from(row: CustomRoleRow) -> Result<Self, StoreError> {
        let permissions = from_json("custom_roles.module_permissions", &row.module_permissions)?;
        Ok(Self {
            id: parsed("custom_roles.id", &row.id)?,
            tenant_id: parsed("custom_roles.tenant_id", &row.tenant_id)?,
            name: row.name,
            module_permissions: permissions,
            created_at: from_micros("custom_roles.created_at", row.created_at)?,
        })
    }
}

impl Store {
    /// Writes a new role down, together with the idempotency key of its request.
    pub async fn insert_custom_role(
        &self,
        role: &CustomRole,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a custom role");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO custom_roles (id, tenant_id, name, module_permissions, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(role.id.to_string())
        .bind(role.tenant_id.to_string())
        .bind(&role.name)
        .bind(to_json("custom_roles.module_permissions", &role.module_permissions)?)
        .bind(to_micros(role.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        self.finish_insert(transaction, done, key, &role.id.to_string(), role.created_at).await
    }

    /// One role.
    pub async fn custom_role(&self, id: CustomRoleId) -> Result<Option<CustomRole>, StoreError> {
        Ok(self.custom_roles(&[id]).await?.into_iter().next())
    }

    /// These roles, as far as they exist.
    pub async fn custom_roles(&self, ids: &[CustomRoleId]) -> Result<Vec<CustomRole>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = Select::new("SELECT * FROM custom_roles WHERE id");
        query.within(ids.iter().map(ToString::to_string));
        let rows: Vec<CustomRoleRow> = query.fetch_all(&self.readers, "read custom roles").await?;
        rows.into_iter().map(CustomRole::try_from).collect()
    }

    /// The newest `limit` roles in `scope` made before `before`; of one tenant, if one is given.
    pub async fn list_custom_roles(
        &self,
        scope: Scope,
        tenant: Option<TenantId>,
        before: Option<CustomRoleId>,
        limit: usize,
    ) -> Result<Vec<CustomRole>, StoreError> {
        let mut query = Select::new("SELECT * FROM custom_roles WHERE 1 = 1");
        query.in_tenants_of(scope);
        if let Some(tenant) = tenant {
            query.push(" AND tenant_id = ").bind(tenant.to_string());
        }
        query.page(before, limit);
        let rows: Vec<CustomRoleRow> = query.fetch_all(&self.readers, "list custom roles").await?;
        rows.into_iter().map(CustomRole::try_from).collect()
    }

    /// Writes a role's new name and permissions down, if it still is what it `was`.
    pub async fn update_custom_role(
        &self,
        was: &[Permission],
        role: &CustomRole,
    ) -> Result<Updated, StoreError> {
        let done = sqlx::query(
            "UPDATE custom_roles SET name = $3, module_permissions = $4 \
             WHERE id = $1 AND module_permissions = $2",
        )
        .bind(role.id.to_string())
        .bind(to_json("custom_roles.module_permissions", &was)?)
        .bind(&role.name)
        .bind(to_json("custom_roles.module_permissions", &role.module_permissions)?)
        .execute(&self.writer)
        .await;
        Updated::of(done, "update a custom role")
    }

    /// Deletes a role that nobody has.
    pub async fn delete_custom_role(&self, id: CustomRoleId) -> Result<Removed, StoreError> {
        let done = sqlx::query("DELETE FROM custom_roles WHERE id = $1")
            .bind(id.to_string())
            .execute(&self.writer)
            .await;
        Removed::of(done, "users that have it", "delete a custom role")
    }
}

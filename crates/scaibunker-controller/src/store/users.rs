//! Users. A deleted one's row stays for the bunkers that it had, without anything else of it.

use std::collections::HashMap;

use jiff::Timestamp;
use scaibunker_api::{
    iam::{Role, User},
    ids::{CustomRoleId, GroupId, TenantId, UserId},
};
use sqlx::AnyConnection;

use super::{
    IdempotencyKey, Inserted, Removed, Store, StoreError, Updated, from_json, from_micros, parsed,
    select::Select, status_from, status_text, to_json, to_micros,
};
use crate::domain::actor::Scope;

/// A user, and how often it was changed.
#[derive(Debug, Clone)]
pub struct StoredUser {
    pub user: User,
    pub generation: i64,
}

/// Which users are asked for. `None` lets everything pass.
#[derive(Debug, Clone, Default)]
pub struct UserFilter {
    pub tenant: Option<TenantId>,
    /// Members of the group itself.
    pub group: Option<GroupId>,
    pub custom_role: Option<CustomRoleId>,
    /// Only users made before this one.
    pub before: Option<UserId>,
}

#[derive(sqlx::FromRow)]
struct UserRow {
    id: String,
    tenant_id: String,
    name: String,
    email: Option<String>,
    role: String,
    module_permissions: String,
    oidc_subject: Option<String>,
    status: String,
    created_at: i64,
    generation: i64,
}

impl UserRow {
    fn user(self, custom_role_ids: Vec<CustomRoleId>) -> Result<StoredUser, StoreError> {
        let role = Role::from_text(&self.role).ok_or(self.role);
        let user = User {
            id: parsed("users.id", &self.id)?,
            tenant_id: parsed("users.tenant_id", &self.tenant_id)?,
            name: self.name,
            email: self.email,
            role: role.map_err(StoreError::corrupt("users.role"))?,
            custom_role_ids,
            module_permissions: from_json("users.module_permissions", &self.module_permissions)?,
            oidc_subject: self.oidc_subject,
            status: status_from("users.status", &self.status)?,
            created_at: from_micros("users.created_at", self.created_at)?,
        };
        Ok(StoredUser { user, generation: self.generation })
    }
}

impl Store {
    /// Writes a new user down, together with the idempotency key of its request.
    pub async fn insert_user(
        &self,
        user: &User,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a user");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO users (id, tenant_id, name, email, role, module_permissions, \
             oidc_subject, status, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT DO NOTHING",
        )
        .bind(user.id.to_string())
        .bind(user.tenant_id.to_string())
        .bind(&user.name)
        .bind(&user.email)
        .bind(user.role.as_str())
        .bind(to_json("users.module_permissions", &user.module_permissions)?)
        .bind(&user.oidc_subject)
        .bind(status_text(user.status))
        .bind(to_micros(user.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        if done.rows_affected() == 1 {
            give_roles(&mut transaction, user).await?;
        }
        let id = user.id.to_string();
        self.finish_insert(transaction, done, key, &id, user.created_at).await
    }

    /// One user.
    pub async fn user(&self, id: UserId) -> Result<Option<StoredUser>, StoreError> {
        let row: Option<UserRow> =
            sqlx::query_as("SELECT * FROM users WHERE id = $1 AND deleted_at IS NULL")
                .bind(id.to_string())
                .fetch_optional(&self.readers)
                .await
                .map_err(StoreError::query("read a user"))?;
        let users = self.with_roles(row.into_iter().collect()).await?;
        Ok(users.into_iter().next())
    }

    /// The newest `limit` users in `scope` that pass the filter.
    pub async fn list_users(
        &self,
        scope: Scope,
        filter: &UserFilter,
        limit: usize,
    ) -> Result<Vec<StoredUser>, StoreError> {
        let mut query = Select::new("SELECT * FROM users WHERE deleted_at IS NULL");
        query.in_scope(scope, " AND id = ");
        if let Some(tenant) = filter.tenant {
            query.push(" AND tenant_id = ").bind(tenant.to_string());
        }
        if let Some(group) = filter.group {
            query
                .push(" AND id IN (SELECT user_id FROM group_members WHERE group_id = ")
                .bind(group.to_string())
                .push(")");
        }
        if let Some(role) = filter.custom_role {
            query
                .push(" AND id IN (SELECT user_id FROM user_custom_roles WHERE custom_role_id = ")
                .bind(role.to_string())
                .push(")");
        }
        query.page(filter.before, limit);
        let rows = query.fetch_all(&self.readers, "list users").await?;
        self.with_roles(rows).await
    }

    /// Writes down everything of a user that can change, unless somebody else did meanwhile.
    pub async fn update_user(&self, changed: &StoredUser) -> Result<Updated, StoreError> {
        let failed = || StoreError::query("update a user");
        let StoredUser { user, generation } = changed;
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        hold_super_admins(&mut transaction).await?;
        let done = sqlx::query(
            "UPDATE users SET name = $3, email = $4, role = $5, module_permissions = $6, \
             oidc_subject = $7, status = $8, generation = generation + 1 \
             WHERE id = $1 AND generation = $2 AND deleted_at IS NULL",
        )
        .bind(user.id.to_string())
        .bind(generation)
        .bind(&user.name)
        .bind(&user.email)
        .bind(user.role.as_str())
        .bind(to_json("users.module_permissions", &user.module_permissions)?)
        .bind(&user.oidc_subject)
        .bind(status_text(user.status))
        .execute(&mut *transaction)
        .await;
        let updated = Updated::of(done, "update a user")?;
        if updated != Updated::Done {
            transaction.rollback().await.map_err(failed())?;
            return Ok(updated);
        }
        sqlx::query("DELETE FROM user_custom_roles WHERE user_id = $1")
            .bind(user.id.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        give_roles(&mut transaction, user).await?;
        if !has_super_admin(&mut transaction).await? {
            transaction.rollback().await.map_err(failed())?;
            return Ok(Updated::LastSuperAdmin);
        }
        transaction.commit().await.map_err(failed())?;
        Ok(Updated::Done)
    }

    /// Deletes a user without live bunkers, and revokes its keys.
    pub async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<Removed, StoreError> {
        let failed = || StoreError::query("delete a user");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        hold_super_admins(&mut transaction).await?;
        let done = sqlx::query(
            "UPDATE users SET deleted_at = $2, oidc_subject = NULL, generation = generation + 1 \
             WHERE id = $1 AND deleted_at IS NULL",
        )
        .bind(id.to_string())
        .bind(to_micros(now))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let (live,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM bunkers WHERE owner_id = $1 AND status IN \
             ('pending', 'provisioning', 'running', 'paused', 'terminating')",
        )
        .bind(id.to_string())
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed())?;
        let refusal = if done.rows_affected() == 0 {
            Some(Removed::Missing)
        } else if live > 0 {
            Some(Removed::InUse("live bunkers"))
        } else if !has_super_admin(&mut transaction).await? {
            Some(Removed::LastSuperAdmin)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            transaction.rollback().await.map_err(failed())?;
            return Ok(refusal);
        }
        sqlx::query(
            "UPDATE api_keys SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL",
        )
        .bind(id.to_string())
        .bind(to_micros(now))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        for leftovers in [
            "DELETE FROM group_members WHERE user_id = $1",
            "DELETE FROM user_custom_roles WHERE user_id = $1",
            "DELETE FROM quota_assignments WHERE target_kind = 'user' AND target_id = $1",
        ] {
            sqlx::query(leftovers)
                .bind(id.to_string())
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())?;
        Ok(Removed::Done)
    }

    async fn with_roles(&self, rows: Vec<UserRow>) -> Result<Vec<StoredUser>, StoreError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut query =
            Select::new("SELECT user_id, custom_role_id FROM user_custom_roles WHERE user_id");
        query.within(rows.iter().map(|row| row.id.as_str())).push(" ORDER BY custom_role_id");
        let given: Vec<(String, String)> =
            query.fetch_all(&self.readers, "read users' custom roles").await?;
        let mut roles: HashMap<String, Vec<CustomRoleId>> = HashMap::new();
        for (user, role) in given {
            let role = parsed("user_custom_roles.custom_role_id", &role)?;
            roles.entry(user).or_default().push(role);
        }
        rows.into_iter()
            .map(|row| {
                let roles = roles.remove(&row.id).unwrap_or_default();
                row.user(roles)
            })
            .collect()
    }
}

async fn give_roles(connection: &mut AnyConnection, user: &User) -> Result<(), StoreError> {
    for role in &user.custom_role_ids {
        sqlx::query("INSERT INTO user_custom_roles (user_id, custom_role_id) VALUES ($1, $2)")
            .bind(user.id.to_string())
            .bind(role.to_string())
            .execute(&mut *connection)
            .await
            .map_err(StoreError::query("give a user a custom role"))?;
    }
    Ok(())
}

/// Holds every other transaction that could take the last super admin away, in both databases. The
/// default quota profile is the one row that is always there; locks on the admins themselves would
/// be taken in an order of chance, and two who change each other wait in a circle.
async fn hold_super_admins(connection: &mut AnyConnection) -> Result<(), StoreError> {
    sqlx::query("UPDATE quota_profiles SET is_default = is_default WHERE is_default = 1")
        .execute(connection)
        .await
        .map_err(StoreError::query("hold the super admins"))?;
    Ok(())
}

/// Whether somebody is left who can manage everything, should the transaction be committed, which
/// [holds](hold_super_admins) them.
async fn has_super_admin(connection: &mut AnyConnection) -> Result<bool, StoreError> {
    let (count,): (i64,) = sqlx::query_as(
        "SELECT COUNT(*) FROM users JOIN tenants ON tenants.id = users.tenant_id \
         WHERE users.role = $1 AND users.status = 'active' AND users.deleted_at IS NULL \
         AND tenants.status = 'active'",
    )
    .bind(Role::SuperAdmin.as_str())
    .fetch_one(connection)
    .await
    .map_err(StoreError::query("look for another super admin"))?;
    Ok(count > 0)
}

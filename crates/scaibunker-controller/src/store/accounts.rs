//! What is written down of a user, as far as it decides what the user may do.

use std::collections::BTreeSet;

use scaibunker_api::{
    iam::{AccountStatus, Role},
    ids::{GroupId, PartnerId, TenantId, UserId},
    permission::Permission,
};

use super::{Store, StoreError, from_json, parsed, select::Select, status_from, storable};
use crate::domain::{account::Standing, authority::Home};

/// A user's standing, and whether its credentials are accepted at all.
#[derive(Debug, Clone)]
pub struct StoredAccount {
    pub standing: Standing,
    pub user_status: AccountStatus,
    pub tenant_status: AccountStatus,
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    tenant_id: String,
    partner_id: String,
    role: String,
    module_permissions: String,
    user_status: String,
    tenant_status: String,
}

impl Store {
    /// The account of a user that is not deleted.
    pub async fn account(&self, id: UserId) -> Result<Option<StoredAccount>, StoreError> {
        let row: Option<AccountRow> = sqlx::query_as(
            "SELECT users.tenant_id, tenants.partner_id, users.role, users.module_permissions, \
             users.status AS user_status, tenants.status AS tenant_status \
             FROM users JOIN tenants ON tenants.id = users.tenant_id \
             WHERE users.id = $1 AND users.deleted_at IS NULL AND tenants.deleted_at IS NULL",
        )
        .bind(id.to_string())
        .fetch_optional(&self.readers)
        .await
        .map_err(StoreError::query("read an account"))?;
        let Some(row) = row else { return Ok(None) };
        let role = Role::from_text(&row.role)
            .ok_or(row.role)
            .map_err(StoreError::corrupt("users.role"))?;
        let home = Home {
            tenant_id: parsed("users.tenant_id", &row.tenant_id)?,
            partner_id: parsed("tenants.partner_id", &row.partner_id)?,
        };
        let mut granted: Vec<Permission> =
            from_json("users.module_permissions", &row.module_permissions)?;
        granted.extend(self.permissions_by_custom_roles(id).await?);
        let group_ids = self.groups_of(id).await?;
        let partner_tenants = match role {
            Role::PartnerAdmin | Role::PartnerViewer => self.tenants_of(home.partner_id).await?,
            _ => BTreeSet::new(),
        };
        let assigned = self.assigned_profiles(id, &group_ids, home.tenant_id).await?;
        let default_profile = self.default_profile().await?;
        Ok(Some(StoredAccount {
            standing: Standing {
                user_id: id,
                role,
                home,
                granted,
                group_ids,
                partner_tenants,
                assigned,
                default_profile,
            },
            user_status: status_from("users.status", &row.user_status)?,
            tenant_status: status_from("tenants.status", &row.tenant_status)?,
        }))
    }

    /// The user with this subject at the OIDC issuer.
    pub async fn user_by_subject(&self, subject: &str) -> Result<Option<UserId>, StoreError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT id FROM users WHERE oidc_subject = $1 AND deleted_at IS NULL")
                .bind(storable(subject))
                .fetch_optional(&self.readers)
                .await
                .map_err(StoreError::query("look up a subject"))?;
        row.map(|(id,)| parsed("users.id", &id)).transpose()
    }

    async fn permissions_by_custom_roles(&self, id: UserId) -> Result<Vec<Permission>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT custom_roles.module_permissions FROM custom_roles \
             JOIN user_custom_roles ON user_custom_roles.custom_role_id = custom_roles.id \
             WHERE user_custom_roles.user_id = $1",
        )
        .bind(id.to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(StoreError::query("read a user's custom roles"))?;
        let mut all = Vec::new();
        for (permissions,) in rows {
            let permissions: Vec<Permission> =
                from_json("custom_roles.module_permissions", &permissions)?;
            all.extend(permissions);
        }
        Ok(all)
    }

    /// The groups of a user and those above them.
    async fn groups_of(&self, id: UserId) -> Result<Vec<GroupId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "WITH RECURSIVE mine (id, parent_id) AS ( \
             SELECT user_groups.id, user_groups.parent_id FROM user_groups \
             JOIN group_members ON group_members.group_id = user_groups.id \
             WHERE group_members.user_id = $1 \
             UNION SELECT user_groups.id, user_groups.parent_id FROM user_groups \
             JOIN mine ON user_groups.id = mine.parent_id) SELECT id FROM mine ORDER BY id",
        )
        .bind(id.to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(StoreError::query("read a user's groups"))?;
        rows.into_iter().map(|(id,)| parsed("user_groups.id", &id)).collect()
    }

    async fn tenants_of(&self, partner: PartnerId) -> Result<BTreeSet<TenantId>, StoreError> {
        let mut query = Select::new("SELECT id FROM tenants WHERE partner_id = ");
        query.bind(partner.to_string());
        let rows: Vec<(String,)> =
            query.fetch_all(&self.readers, "read a partner's tenants").await?;
        rows.into_iter().map(|(id,)| parsed("tenants.id", &id)).collect()
    }
}

//! Groups and their members.

use scaibunker_api::{
    error::ErrorBody,
    iam::Group,
    ids::{GroupId, TenantId, UserId},
};
use sqlx::AnyConnection;

use super::{
    IdempotencyKey, Inserted, Removed, Store, StoreError, Updated, from_micros, parsed,
    select::Select, to_micros,
};
use crate::domain::{actor::Scope, group_tree::GroupTree};

/// A change of a tenant's groups did not happen.
#[derive(Debug, thiserror::Error)]
pub enum GroupRefused {
    #[error(transparent)]
    Rule(#[from] ErrorBody),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(sqlx::FromRow)]
struct GroupRow {
    id: String,
    tenant_id: String,
    parent_id: Option<String>,
    name: String,
    created_at: i64,
}

impl TryFrom<GroupRow> for Group {
    type Error = StoreError;

    fn try_from(row: GroupRow) -> Result<Self, StoreError> {
        let parent = row.parent_id.as_deref();
        Ok(Self {
            id: parsed("user_groups.id", &row.id)?,
            tenant_id: parsed("user_groups.tenant_id", &row.tenant_id)?,
            parent_id: parent.map(|id| parsed("user_groups.parent_id", id)).transpose()?,
            name: row.name,
            created_at: from_micros("user_groups.created_at", row.created_at)?,
        })
    }
}

impl Store {
    /// Writes a new group down, together with the idempotency key of its request, if the tenant's
    /// groups allow it.
    pub async fn insert_group(
        &self,
        group: &Group,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, GroupRefused> {
        let failed = || StoreError::query("insert a group");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        locked_tree(&mut transaction, group.tenant_id).await?.check_new(group.parent_id)?;
        let done = sqlx::query(
            "INSERT INTO user_groups (id, tenant_id, parent_id, name, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(group.id.to_string())
        .bind(group.tenant_id.to_string())
        .bind(group.parent_id.map(|id| id.to_string()))
        .bind(&group.name)
        .bind(to_micros(group.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let id = group.id.to_string();
        Ok(self.finish_insert(transaction, done, key, &id, group.created_at).await?)
    }

    /// One group.
    pub async fn group(&self, id: GroupId) -> Result<Option<Group>, StoreError> {
        let row: Option<GroupRow> = sqlx::query_as("SELECT * FROM user_groups WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(StoreError::query("read a group"))?;
        row.map(Group::try_from).transpose()
    }

    /// The newest `limit` groups in `scope` made before `before`; of one tenant, if one is given.
    pub async fn list_groups(
        &self,
        scope: Scope,
        tenant: Option<TenantId>,
        before: Option<GroupId>,
        limit: usize,
    ) -> Result<Vec<Group>, StoreError> {
        let mut query = Select::new("SELECT * FROM user_groups WHERE 1 = 1");
        query.in_tenants_of(scope);
        if let Some(tenant) = tenant {
            query.push(" AND tenant_id = ").bind(tenant.to_string());
        }
        query.page(before, limit);
        let rows: Vec<GroupRow> = query.fetch_all(&self.readers, "list groups").await?;
        rows.into_iter().map(Group::try_from).collect()
    }

    /// Writes a group's new name and parent down, if the tenant's groups allow it.
    pub async fn update_group(&self, group: &Group) -> Result<Updated, GroupRefused> {
        let failed = || StoreError::query("update a group");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let tree = locked_tree(&mut transaction, group.tenant_id).await?;
        tree.check_move(group.id, group.parent_id)?;
        let done = sqlx::query("UPDATE user_groups SET name = $2, parent_id = $3 WHERE id = $1")
            .bind(group.id.to_string())
            .bind(&group.name)
            .bind(group.parent_id.map(|id| id.to_string()))
            .execute(&mut *transaction)
            .await;
        let updated = Updated::of(done, "update a group")?;
        match updated {
            Updated::Done => transaction.commit().await.map_err(failed())?,
            _ => transaction.rollback().await.map_err(failed())?,
        }
        Ok(updated)
    }

    /// Deletes a group that has no groups below it and no quota profile. Its members stay users.
    pub async fn delete_group(&self, group: &Group) -> Result<Removed, StoreError> {
        let failed = || StoreError::query("delete a group");
        let id = group.id.to_string();
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        locked_tree(&mut transaction, group.tenant_id).await?;
        for (what, count) in [
            ("groups below it", "SELECT COUNT(*) FROM user_groups WHERE parent_id = $1"),
            (
                "quota profiles assigned to it",
                "SELECT COUNT(*) FROM quota_assignments \
                 WHERE target_kind = 'group' AND target_id = $1",
            ),
        ] {
            let (count,): (i64,) = sqlx::query_as(count)
                .bind(&id)
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed())?;
            if count > 0 {
                transaction.rollback().await.map_err(failed())?;
                return Ok(Removed::InUse(what));
            }
        }
        sqlx::query("DELETE FROM group_members WHERE group_id = $1")
            .bind(&id)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        let done = sqlx::query("DELETE FROM user_groups WHERE id = $1")
            .bind(&id)
            .execute(&mut *transaction)
            .await;
        let removed = Removed::of(done, "members", "delete a group")?;
        match removed {
            Removed::Done => transaction.commit().await.map_err(failed())?,
            _ => transaction.rollback().await.map_err(failed())?,
        }
        Ok(removed)
    }

    /// Makes a user a member of a group; no error if it is one.
    pub async fn add_member(&self, group: GroupId, user: UserId) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO group_members (group_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(group.to_string())
        .bind(user.to_string())
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("add a member to a group"))?;
        Ok(())
    }

    /// Ends a membership; `false` if there was none.
    pub async fn remove_member(&self, group: GroupId, user: UserId) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM group_members WHERE group_id = $1 AND user_id = $2")
            .bind(group.to_string())
            .bind(user.to_string())
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("remove a member from a group"))?;
        Ok(done.rows_affected() == 1)
    }
}

/// The groups of a tenant, which nobody else changes until the transaction ends: two moves could
/// otherwise be fine each, and a cycle together.
async fn locked_tree(
    connection: &mut AnyConnection,
    tenant: TenantId,
) -> Result<GroupTree, StoreError> {
    let failed = || StoreError::query("read a tenant's groups");
    sqlx::query("UPDATE tenants SET name = name WHERE id = $1")
        .bind(tenant.to_string())
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    let rows: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT id, parent_id FROM user_groups WHERE tenant_id = $1")
            .bind(tenant.to_string())
            .fetch_all(&mut *connection)
            .await
            .map_err(failed())?;
    rows.into_iter()
        .map(|(id, parent)| {
            let parent = parent.as_deref().map(|id| parsed("user_groups.parent_id", id));
            Ok((parsed("user_groups.id", &id)?, parent.transpose()?))
        })
        .collect()
}

//! Quota profiles and whom they are assigned to.

use scaibunker_api::{
    ids::{GroupId, QuotaAssignmentId, QuotaProfileId, TenantId, UserId},
    quota::{Assignment, AssignmentMode, QuotaProfile, TargetKind},
};

use super::{
    IdempotencyKey, Inserted, Removed, Store, StoreError, Updated, from_json, from_micros, parsed,
    select::Select, to_json, to_micros,
};
use crate::domain::actor::Scope;

#[derive(sqlx::FromRow)]
struct ProfileRow {
    id: String,
    tenant_id: Option<String>,
    name: String,
    description: Option<String>,
    is_default: i64,
    caps: String,
    created_at: i64,
}

impl TryFrom<ProfileRow> for QuotaProfile {
    type Error = StoreError;

    fn try_from(row: ProfileRow) -> Result<Self, StoreError> {
        let tenant = row.tenant_id.as_deref();
        Ok(Self {
            id: parsed("quota_profiles.id", &row.id)?,
            tenant_id: tenant.map(|id| parsed("quota_profiles.tenant_id", id)).transpose()?,
            name: row.name,
            description: row.description,
            is_default: row.is_default != 0,
            caps: from_json("quota_profiles.caps", &row.caps)?,
            created_at: from_micros("quota_profiles.created_at", row.created_at)?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct AssignmentRow {
    id: String,
    profile_id: String,
    target_kind: String,
    target_id: String,
    mode: String,
    created_at: i64,
}

impl TryFrom<AssignmentRow> for Assignment {
    type Error = StoreError;

    fn try_from(row: AssignmentRow) -> Result<Self, StoreError> {
        let kinds = [TargetKind::User, TargetKind::Group, TargetKind::Tenant];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == row.target_kind);
        let modes = [AssignmentMode::Individual, AssignmentMode::Shared, AssignmentMode::PerUser];
        let mode = modes.into_iter().find(|mode| mode.as_str() == row.mode);
        Ok(Self {
            id: parsed("quota_assignments.id", &row.id)?,
            profile_id: parsed("quota_assignments.profile_id", &row.profile_id)?,
            target_kind: kind
                .ok_or(row.target_kind)
                .map_err(StoreError::corrupt("quota_assignments.target_kind"))?,
            target_id: row.target_id,
            mode: mode.ok_or(row.mode).map_err(StoreError::corrupt("quota_assignments.mode"))?,
            created_at: from_micros("quota_assignments.created_at", row.created_at)?,
        })
    }
}

impl Store {
    /// Writes a new profile down, together with the idempotency key of its request. A second
    /// default profile [exists](Inserted::Exists) already.
    pub async fn insert_quota_profile(
        &self,
        profile: &QuotaProfile,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a quota profile");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO quota_profiles (id, tenant_id, name, description, is_default, caps, \
             created_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(profile.id.to_string())
        .bind(profile.tenant_id.map(|id| id.to_string()))
        .bind(&profile.name)
        .bind(&profile.description)
        .bind(i64::from(profile.is_default))
        .bind(to_json("quota_profiles.caps", &profile.caps)?)
        .bind(to_micros(profile.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let id = profile.id.to_string();
        self.finish_insert(transaction, done, key, &id, profile.created_at).await
    }

    /// One profile.
    pub async fn quota_profile(
        &self,
        id: QuotaProfileId,
    ) -> Result<Option<QuotaProfile>, StoreError> {
        Ok(self.quota_profiles(&[id]).await?.into_iter().next())
    }

    async fn quota_profiles(
        &self,
        ids: &[QuotaProfileId],
    ) -> Result<Vec<QuotaProfile>, StoreError> {
        let mut query = Select::new("SELECT * FROM quota_profiles WHERE id");
        query.within(ids.iter().map(ToString::to_string));
        let rows: Vec<ProfileRow> = query.fetch_all(&self.readers, "read quota profiles").await?;
        rows.into_iter().map(QuotaProfile::try_from).collect()
    }

    /// The newest `limit` profiles of the platform and of the tenants in `scope` made before
    /// `before`; of one tenant alone, if one is given.
    pub async fn list_quota_profiles(
        &self,
        scope: Scope,
        tenant: Option<TenantId>,
        before: Option<QuotaProfileId>,
        limit: usize,
    ) -> Result<Vec<QuotaProfile>, StoreError> {
        let mut query =
            Select::new("SELECT * FROM quota_profiles WHERE (tenant_id IS NULL OR (1 = 1");
        query.in_tenants_of(scope).push("))");
        if let Some(tenant) = tenant {
            query.push(" AND tenant_id = ").bind(tenant.to_string());
        }
        query.page(before, limit);
        let rows: Vec<ProfileRow> = query.fetch_all(&self.readers, "list quota profiles").await?;
        rows.into_iter().map(QuotaProfile::try_from).collect()
    }

    /// Writes a profile's new name, description and caps down.
    pub async fn update_quota_profile(
        &self,
        profile: &QuotaProfile,
    ) -> Result<Updated, StoreError> {
        let done = sqlx::query(
            "UPDATE quota_profiles SET name = $2, description = $3, caps = $4 WHERE id = $1",
        )
        .bind(profile.id.to_string())
        .bind(&profile.name)
        .bind(&profile.description)
        .bind(to_json("quota_profiles.caps", &profile.caps)?)
        .execute(&self.writer)
        .await;
        Updated::of(done, "update a quota profile")
    }

    /// Deletes a profile that is assigned to nobody and not the default.
    pub async fn delete_quota_profile(&self, id: QuotaProfileId) -> Result<Removed, StoreError> {
        let done = sqlx::query("DELETE FROM quota_profiles WHERE id = $1 AND is_default = 0")
            .bind(id.to_string())
            .execute(&self.writer)
            .await;
        Removed::of(done, "assignments of it", "delete a quota profile")
    }

    /// The profile of whom no other is assigned to.
    pub(super) async fn default_profile(&self) -> Result<QuotaProfile, StoreError> {
        let row: ProfileRow = sqlx::query_as("SELECT * FROM quota_profiles WHERE is_default = 1")
            .fetch_one(&self.readers)
            .await
            .map_err(StoreError::query("read the default quota profile"))?;
        row.try_into()
    }

    /// Writes a new assignment down, together with the idempotency key of its request.
    pub async fn insert_assignment(
        &self,
        assignment: &Assignment,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a quota assignment");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO quota_assignments (id, profile_id, target_kind, target_id, mode, \
             created_at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(assignment.id.to_string())
        .bind(assignment.profile_id.to_string())
        .bind(assignment.target_kind.as_str())
        .bind(&assignment.target_id)
        .bind(assignment.mode.as_str())
        .bind(to_micros(assignment.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let id = assignment.id.to_string();
        self.finish_insert(transaction, done, key, &id, assignment.created_at).await
    }

    /// One assignment.
    pub async fn assignment(
        &self,
        id: QuotaAssignmentId,
    ) -> Result<Option<Assignment>, StoreError> {
        let row: Option<AssignmentRow> =
            sqlx::query_as("SELECT * FROM quota_assignments WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&self.readers)
                .await
                .map_err(StoreError::query("read a quota assignment"))?;
        row.map(Assignment::try_from).transpose()
    }

    /// The newest `limit` assignments of a profile made before `before`, to targets of the tenants
    /// in `scope`.
    pub async fn list_assignments(
        &self,
        scope: Scope,
        profile: QuotaProfileId,
        before: Option<QuotaAssignmentId>,
        limit: usize,
    ) -> Result<Vec<Assignment>, StoreError> {
        let mut query = Select::new(
            "SELECT * FROM (SELECT quota_assignments.*, COALESCE(users.tenant_id, \
             user_groups.tenant_id, quota_assignments.target_id) AS tenant_id \
             FROM quota_assignments \
             LEFT JOIN users ON users.id = target_id LEFT JOIN user_groups \
             ON user_groups.id = target_id) AS assignments WHERE profile_id = ",
        );
        query.bind(profile.to_string()).in_tenants_of(scope);
        query.page(before, limit);
        let rows: Vec<AssignmentRow> =
            query.fetch_all(&self.readers, "list quota assignments").await?;
        rows.into_iter().map(Assignment::try_from).collect()
    }

    /// Whether a profile is assigned to a whole tenant.
    pub async fn is_assigned_to_tenant(&self, profile: QuotaProfileId) -> Result<bool, StoreError> {
        let (count,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM quota_assignments \
             WHERE profile_id = $1 AND target_kind = 'tenant'",
        )
        .bind(profile.to_string())
        .fetch_one(&self.readers)
        .await
        .map_err(StoreError::query("look for tenants with a quota profile"))?;
        Ok(count > 0)
    }

    /// Ends an assignment; `false` if there was none.
    pub async fn delete_assignment(&self, id: QuotaAssignmentId) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM quota_assignments WHERE id = $1")
            .bind(id.to_string())
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("delete a quota assignment"))?;
        Ok(done.rows_affected() == 1)
    }

    /// What is assigned to a user, its groups and its tenant.
    pub(super) async fn assigned_profiles(
        &self,
        user: UserId,
        groups: &[GroupId],
        tenant: TenantId,
    ) -> Result<Vec<(Assignment, QuotaProfile)>, StoreError> {
        // Ids of different kinds never agree, so the kind need not be asked for.
        let targets = [user.to_string(), tenant.to_string()];
        let mut query = Select::new("SELECT * FROM quota_assignments WHERE target_id");
        query.within(targets.into_iter().chain(groups.iter().map(ToString::to_string)));
        query.push(" ORDER BY id");
        let rows: Vec<AssignmentRow> =
            query.fetch_all(&self.readers, "read a user's quota assignments").await?;
        let assignments: Vec<Assignment> =
            rows.into_iter().map(Assignment::try_from).collect::<Result<_, _>>()?;
        if assignments.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = assignments.iter().map(|assignment| assignment.profile_id).collect();
        let profiles = self.quota_profiles(&ids).await?;
        let with_profile = |assignment: Assignment| {
            let profile = profiles.iter().find(|profile| profile.id == assignment.profile_id)?;
            Some((assignment, profile.clone()))
        };
        Ok(assignments.into_iter().filter_map(with_profile).collect())
    }
}

//! Assignments: which profile holds for whom, and who shares its caps.

use std::str::FromStr;

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorBody,
    ids::{GroupId, QuotaAssignmentId, QuotaProfileId, TenantId, UserId},
    permission::Permission,
    quota::{Assignment, AssignmentMode, CreateAssignment, TargetKind},
};

use super::Quotas;
use crate::{
    creation::{Created, Creation},
    domain::actor::Actor,
    failure::Failure,
    iam::not_found,
};

impl Quotas {
    /// Assigns a profile to a user, a group or a tenant that has none yet.
    pub async fn assign(
        &self,
        actor: &Actor,
        profile_id: QuotaProfileId,
        request: CreateAssignment,
        key: Option<String>,
    ) -> Result<Created<Assignment>, Failure> {
        actor.require(Permission::AdminTenant)?;
        let mode = mode_of(request.target_kind, request.mode)?;
        let asked = (profile_id, &request);
        let creation = match Creation::begin(&self.store, actor, key, "assignment", &asked).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let profile = self.profile(actor, profile_id).await?;
        let kind = request.target_kind;
        let tenant = self.tenant_of_target(actor, kind, &request.target_id).await?;
        if profile.tenant_id.is_some_and(|own| own != tenant) {
            let message = "the profile is of another tenant than the target";
            return Err(ErrorBody::invalid("target_id", message).into());
        }
        let assignment = Assignment {
            id: QuotaAssignmentId::generate(),
            profile_id,
            target_kind: kind,
            target_id: request.target_id,
            mode,
            created_at: Timestamp::now(),
        };
        let key = creation.key(&assignment);
        let inserted = self.store.insert_assignment(&assignment, key.as_ref()).await?;
        self.changed();
        creation.finish(inserted, assignment, "target_id").await
    }

    /// The newest `limit` assignments of a profile to targets in the caller's reach.
    pub async fn assignments(
        &self,
        actor: &Actor,
        profile_id: QuotaProfileId,
        before: Option<QuotaAssignmentId>,
        limit: usize,
    ) -> Result<Vec<Assignment>, Failure> {
        self.profile(actor, profile_id).await?;
        Ok(self.store.list_assignments(actor.scope(), profile_id, before, limit).await?)
    }

    /// Ends an assignment. Running bunkers stay charged where they are.
    pub async fn unassign(
        &self,
        actor: &Actor,
        profile_id: QuotaProfileId,
        id: QuotaAssignmentId,
    ) -> Result<(), Failure> {
        actor.require(Permission::AdminTenant)?;
        self.profile(actor, profile_id).await?;
        let assignment = match self.store.assignment(id).await? {
            Some(assignment) if assignment.profile_id == profile_id => assignment,
            _ => return Err(not_found("assignment", id)),
        };
        let (kind, target) = (assignment.target_kind, &assignment.target_id);
        self.tenant_of_target(actor, kind, target).await?;
        if !self.store.delete_assignment(id).await? {
            return Err(not_found("assignment", id));
        }
        self.changed();
        Ok(())
    }

    /// The tenant of a target that the caller may assign profiles to.
    async fn tenant_of_target(
        &self,
        actor: &Actor,
        kind: TargetKind,
        id: &str,
    ) -> Result<TenantId, Failure> {
        let found = match kind {
            TargetKind::User => {
                let user = self.store.user(read::<UserId>(id)?).await?;
                user.map(|stored| stored.user.tenant_id)
            }
            TargetKind::Group => {
                let group = self.store.group(read::<GroupId>(id)?).await?;
                group.map(|group| group.tenant_id)
            }
            TargetKind::Tenant => {
                actor.require(Permission::Admin)?;
                let tenant = self.store.tenant(read::<TenantId>(id)?).await?;
                tenant.map(|tenant| tenant.id)
            }
        };
        found
            .filter(|tenant| actor.reach.covers(*tenant))
            .ok_or_else(|| not_found(kind.as_str(), id))
    }
}

fn read<Id: FromStr<Err: std::fmt::Display>>(id: &str) -> Result<Id, ErrorBody> {
    id.parse().map_err(|error: Id::Err| ErrorBody::invalid("target_id", error.to_string()))
}

/// The mode of an assignment to this kind of target.
fn mode_of(kind: TargetKind, mode: Option<AssignmentMode>) -> Result<AssignmentMode, ErrorBody> {
    let (default, also) = match kind {
        TargetKind::User => (AssignmentMode::Individual, None),
        TargetKind::Group => (AssignmentMode::Shared, Some(AssignmentMode::PerUser)),
        TargetKind::Tenant => (AssignmentMode::Shared, None),
    };
    let mode = mode.unwrap_or(default);
    if mode == default || Some(mode) == also {
        return Ok(mode);
    }
    let modes = match also {
        Some(also) => format!("`{}` or `{}`", default.as_str(), also.as_str()),
        None => format!("`{}`", default.as_str()),
    };
    Err(ErrorBody::invalid("mode", format!("must be {modes} for a {}", kind.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_target_has_its_modes() {
        use AssignmentMode::{Individual, PerUser, Shared};
        for (kind, default, allowed) in [
            (TargetKind::User, Individual, vec![Individual]),
            (TargetKind::Group, Shared, vec![Shared, PerUser]),
            (TargetKind::Tenant, Shared, vec![Shared]),
        ] {
            assert_eq!(mode_of(kind, None), Ok(default));
            for mode in [Individual, Shared, PerUser] {
                assert_eq!(mode_of(kind, Some(mode)).is_ok(), allowed.contains(&mode));
            }
        }
    }
}

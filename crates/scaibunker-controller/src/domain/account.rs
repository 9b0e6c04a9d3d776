//! What a credential stands for: its user with everything that follows from roles, grants and groups.

use std::{collections::BTreeSet, sync::Arc};

use scaibunker_api::{
    iam::Role,
    ids::{ApiKeyId, GroupId, RequestId, TenantId, UserId},
    permission::Permission,
    quota::{Assignment, QuotaProfile},
};

use super::{
    actor::{Actor, Reach},
    authority::{Extent, Home, Powers, is_viewer},
    quota::{AppliedProfile, Member, PlatformMax, applied},
};

/// What is written down of a user, as far as it decides what the user may do.
#[derive(Debug, Clone)]
pub struct Standing {
    pub user_id: UserId,
    pub role: Role,
    pub home: Home,
    /// To the user itself and by custom roles.
    pub granted: Vec<Permission>,
    /// Every group the user belongs to, nested ones expanded.
    pub group_ids: Vec<GroupId>,
    /// The tenants of the partner; read only for a role that reaches them.
    pub partner_tenants: BTreeSet<TenantId>,
    /// Assignments to the user, its groups and its tenant, and what is assigned.
    pub assigned: Vec<(Assignment, QuotaProfile)>,
    pub default_profile: QuotaProfile,
}

/// A user as every request of it needs it.
#[derive(Debug, Clone)]
pub struct Account {
    pub user_id: UserId,
    pub tenant_id: TenantId,
    pub reach: Reach,
    pub permissions: Arc<[Permission]>,
    pub is_viewer: bool,
    pub group_ids: Arc<[GroupId]>,
    pub quota_profiles: Arc<[AppliedProfile]>,
}

impl Account {
    /// Draws the conclusions.
    #[must_use]
    pub fn of(standing: Standing, platform_max: &PlatformMax) -> Self {
        let Standing { user_id, role, home, group_ids, .. } = standing;
        let powers = Powers::of(role, standing.granted, home);
        let reach = match powers.extent {
            Extent::Platform => Reach::Platform,
            Extent::Partner(partner) => Reach::Partner(partner, Arc::new(standing.partner_tenants)),
            Extent::Tenant(tenant) => Reach::Tenant(tenant),
        };
        let member = Member { user_id, tenant_id: home.tenant_id, group_ids: &group_ids };
        let profiles =
            applied(&member, &standing.assigned, &standing.default_profile, platform_max);
        Self {
            user_id,
            tenant_id: home.tenant_id,
            reach,
            permissions: powers.permissions.into_iter().collect(),
            is_viewer: is_viewer(role),
            quota_profiles: profiles.into(),
            group_ids: group_ids.into(),
        }
    }

    /// The account's user as the caller of a request.
    #[must_use]
    pub fn actor(&self, api_key_id: Option<ApiKeyId>, request_id: RequestId) -> Actor {
        Actor {
            tenant_id: self.tenant_id,
            user_id: self.user_id,
            api_key_id,
            reach: self.reach.clone(),
            permissions: Arc::clone(&self.permissions),
            is_viewer: self.is_viewer,
            group_ids: Arc::clone(&self.group_ids),
            quota_profiles: Arc::clone(&self.quota_profiles),
            request_id,
        }
    }
}

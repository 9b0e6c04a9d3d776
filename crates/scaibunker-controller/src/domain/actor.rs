//! Who calls, and what the caller may do and see.

use std::{collections::BTreeSet, sync::Arc};

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    iam::Role,
    ids::{ApiKeyId, GroupId, PartnerId, RequestId, TenantId, UserId},
    permission::Permission,
};

use super::{bunker::Bunker, quota::AppliedProfile};

/// How far a caller's powers reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    Platform,
    /// A partner and the tenants it has.
    Partner(PartnerId, Arc<BTreeSet<TenantId>>),
    Tenant(TenantId),
}

impl Reach {
    /// Whether the tenant is within.
    #[must_use]
    pub fn covers(&self, tenant: TenantId) -> bool {
        match self {
            Self::Platform => true,
            Self::Partner(_, tenants) => tenants.contains(&tenant),
            Self::Tenant(own) => *own == tenant,
        }
    }
}

/// What a role may do before anything is granted.
#[must_use]
pub fn permissions_of(role: Role) -> Vec<Permission> {
    let all_but = |without: &[Permission]| {
        Permission::ALL.iter().copied().filter(|permission| !without.contains(permission)).collect()
    };
    match role {
        Role::SuperAdmin => all_but(&[]),
        Role::PartnerAdmin => all_but(&[Permission::AdminPlatform]),
        Role::TenantAdmin => all_but(&[Permission::Admin, Permission::AdminPlatform]),
        Role::PartnerViewer | Role::TenantUser | Role::TenantViewer => Vec::new(),
    }
}

/// Whose bunkers a caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Everything,
    Partner(PartnerId),
    Tenant(TenantId),
    Own(TenantId, UserId),
}

/// An authenticated caller and the request it makes.
#[derive(Debug, Clone)]
pub struct Actor {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    /// `None`: a token of an OIDC issuer.
    pub api_key_id: Option<ApiKeyId>,
    pub reach: Reach,
    pub permissions: Arc<[Permission]>,
    /// Reads everything within reach, without any permission.
    pub is_viewer: bool,
    /// Every group the caller belongs to, nested ones expanded.
    pub group_ids: Arc<[GroupId]>,
    /// The quota profiles that hold for the caller's bunkers.
    pub quota_profiles: Arc<[AppliedProfile]>,
    pub request_id: RequestId,
}

impl Actor {
    /// Whether the caller holds `permission`.
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Whether the caller may look at what needs `permission` to be changed.
    #[must_use]
    pub fn may_read(&self, permission: Permission) -> bool {
        self.is_viewer || self.may(permission)
    }

    /// Refuses a caller without `permission`.
    pub fn require(&self, permission: Permission) -> Result<(), ErrorBody> {
        if self.may(permission) { Ok(()) } else { Err(forbidden(permission)) }
    }

    /// Refuses a caller that may not look at what needs `permission` to be changed.
    pub fn require_read(&self, permission: Permission) -> Result<(), ErrorBody> {
        if self.may_read(permission) { Ok(()) } else { Err(forbidden(permission)) }
    }

    /// Refuses a caller that is no admin of the whole platform: workers are nobody's alone.
    pub fn require_platform(&self, permission: Permission) -> Result<(), ErrorBody> {
        self.require(permission)?;
        if self.reach == Reach::Platform {
            return Ok(());
        }
        let message = "this is the platform's, not a partner's or tenant's; ask its operator";
        Err(ErrorBody::new(ErrorCode::Forbidden, message))
    }

    /// Whose bunkers the caller sees.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let reads_all =
            self.is_viewer || self.may(Permission::Admin) || self.may(Permission::AdminTenant);
        match &self.reach {
            _ if !reads_all => Scope::Own(self.tenant_id, self.user_id),
            Reach::Platform => Scope::Everything,
            Reach::Partner(partner, _) => Scope::Partner(*partner),
            Reach::Tenant(tenant) => Scope::Tenant(*tenant),
        }
    }

    /// Whether `bunker` exists as far as the caller is concerned.
    #[must_use]
    pub fn sees(&self, bunker: &Bunker) -> bool {
        self.sees_owned(bunker.tenant_id, bunker.owner_id)
    }

    /// Whether what that user of that tenant owns exists as far as the caller is concerned.
    #[must_use]
    pub fn sees_owned(&self, tenant: TenantId, owner: UserId) -> bool {
        match self.scope() {
            Scope::Own(own_tenant, user) => tenant == own_tenant && owner == user,
            Scope::Everything | Scope::Partner(_) | Scope::Tenant(_) => self.reach.covers(tenant),
        }
    }
}

fn forbidden(permission: Permission) -> ErrorBody {
    let message =
        format!("this needs the permission `{}`; ask a tenant admin for it", permission.key());
    ErrorBody::new(ErrorCode::Forbidden, message)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::bunker::tests::pending_bunker;

    /// A user of a tenant of its own.
    pub(crate) fn actor(permissions: &[Permission]) -> Actor {
        let tenant_id = TenantId::generate();
        Actor {
            tenant_id,
            user_id: UserId::generate(),
            api_key_id: None,
            reach: Reach::Tenant(tenant_id),
            permissions: permissions.into(),
            is_viewer: false,
            group_ids: Arc::default(),
            quota_profiles: Arc::default(),
            request_id: RequestId::generate(),
        }
    }

    #[test]
    fn a_missing_permission_is_named() {
        let refusal = actor(&[Permission::Create]).require(Permission::Execute).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Forbidden);
        assert!(refusal.message.contains("scaibunker:execute"));
    }

    #[test]
    fn what_is_seen_follows_from_permissions_and_reach() {
        let bunker = pending_bunker();
        let tenant = bunker.tenant_id;
        let within =
            |actor: Actor| Actor { tenant_id: tenant, reach: Reach::Tenant(tenant), ..actor };
        let owner = Actor { user_id: bunker.owner_id, ..within(actor(&[])) };
        let colleague = within(actor(&[Permission::Create]));
        let viewer = Actor { is_viewer: true, ..within(actor(&[])) };
        let tenant_admin = within(actor(&[Permission::AdminTenant]));
        let elsewhere = actor(&[Permission::AdminTenant]);
        let partner = |tenants: &[TenantId]| Actor {
            reach: Reach::Partner(
                PartnerId::generate(),
                Arc::new(tenants.iter().copied().collect()),
            ),
            ..actor(&[Permission::Admin])
        };
        let platform = Actor { reach: Reach::Platform, ..actor(&[Permission::Admin]) };
        for (actor, sees) in [
            (owner, true),
            (colleague, false),
            (viewer, true),
            (tenant_admin, true),
            (elsewhere, false),
            (partner(&[tenant]), true),
            (partner(&[]), false),
            (platform, true),
        ] {
            assert_eq!(actor.sees(&bunker), sees, "{actor:?}");
        }
    }

    #[test]
    fn only_a_super_admin_has_the_platform() {
        for role in Role::ALL {
            let has_platform = permissions_of(role).contains(&Permission::AdminPlatform);
            assert_eq!(has_platform, role == Role::SuperAdmin);
            let has_admin = permissions_of(role).contains(&Permission::Admin);
            assert_eq!(has_admin, matches!(role, Role::SuperAdmin | Role::PartnerAdmin));
        }
    }
}

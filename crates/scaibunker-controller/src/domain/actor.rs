//! Who calls, and what the caller may do and see.

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{RequestId, TenantId, UserId},
    permission::Permission,
};

use super::bunker::Bunker;

/// A built-in role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    SuperAdmin,
}

impl Role {
    /// The role as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SuperAdmin => "super_admin",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        (text == Self::SuperAdmin.as_str()).then_some(Self::SuperAdmin)
    }

    /// What the role may do.
    #[must_use]
    pub fn permissions(self) -> &'static [Permission] {
        match self {
            Self::SuperAdmin => Permission::ALL,
        }
    }
}

/// Whose bunkers a caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Everything,
    Tenant(TenantId),
    Own(TenantId, UserId),
}

/// An authenticated caller and the request it makes.
#[derive(Debug, Clone)]
pub struct Actor {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub permissions: Vec<Permission>,
    pub request_id: RequestId,
}

impl Actor {
    /// Whether the caller holds `permission`.
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Refuses a caller without `permission`.
    pub fn require(&self, permission: Permission) -> Result<(), ErrorBody> {
        if self.may(permission) {
            return Ok(());
        }
        Err(ErrorBody::new(
            ErrorCode::Forbidden,
            format!("this needs the permission `{}`; ask a tenant admin for it", permission.key()),
        ))
    }

    /// Whose bunkers the caller sees.
    #[must_use]
    pub fn scope(&self) -> Scope {
        if self.may(Permission::Admin) {
            Scope::Everything
        } else if self.may(Permission::AdminTenant) {
            Scope::Tenant(self.tenant_id)
        } else {
            Scope::Own(self.tenant_id, self.user_id)
        }
    }

    /// Whether `bunker` exists as far as the caller is concerned.
    #[must_use]
    pub fn sees(&self, bunker: &Bunker) -> bool {
        match self.scope() {
            Scope::Everything => true,
            Scope::Tenant(tenant) => bunker.tenant_id == tenant,
            Scope::Own(tenant, user) => bunker.tenant_id == tenant && bunker.owner_id == user,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bunker::tests::pending_bunker;

    fn actor(permissions: &[Permission]) -> Actor {
        Actor {
            tenant_id: TenantId::generate(),
            user_id: UserId::generate(),
            permissions: permissions.to_vec(),
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
    fn what_is_seen_follows_from_the_permissions() {
        let bunker = pending_bunker();
        let owner = Actor { tenant_id: bunker.tenant_id, user_id: bunker.owner_id, ..actor(&[]) };
        let colleague = Actor { tenant_id: bunker.tenant_id, ..actor(&[]) };
        let tenant_admin =
            Actor { permissions: vec![Permission::AdminTenant], ..colleague.clone() };
        let tenant_admin_elsewhere = actor(&[Permission::AdminTenant]);
        let admin = actor(&[Permission::Admin]);
        let seen = [&owner, &colleague, &tenant_admin, &tenant_admin_elsewhere, &admin]
            .map(|actor| actor.sees(&bunker));
        assert_eq!(seen, [true, false, true, false, true]);
    }

    #[test]
    fn a_stored_role_is_read_back() {
        assert_eq!(Role::from_text(Role::SuperAdmin.as_str()), Some(Role::SuperAdmin));
        assert_eq!(Role::from_text("root"), None);
    }
}

//! Who may manage whom. Nobody hands out more than they hold: neither a permission, nor a reach.

use std::collections::BTreeSet;

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    iam::Role,
    ids::{PartnerId, TenantId},
    permission::Permission,
};

use super::actor::{Actor, Reach, permissions_of};

/// Where a user is at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    pub tenant_id: TenantId,
    pub partner_id: PartnerId,
}

/// How far a user's powers reach; a [`Reach`] that does not name a partner's tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Platform,
    Partner(PartnerId),
    Tenant(TenantId),
}

/// What a user may do, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Powers {
    pub permissions: BTreeSet<Permission>,
    pub extent: Extent,
}

impl Powers {
    /// The powers of a user with `role` to whom `granted` was granted, by custom roles or directly.
    #[must_use]
    pub fn of(role: Role, granted: impl IntoIterator<Item = Permission>, home: Home) -> Self {
        let mut permissions = BTreeSet::from_iter(permissions_of(role));
        permissions.extend(granted);
        let extent = match role {
            Role::SuperAdmin => Extent::Platform,
            Role::PartnerAdmin | Role::PartnerViewer => Extent::Partner(home.partner_id),
            Role::TenantAdmin | Role::TenantUser | Role::TenantViewer => {
                if permissions.iter().copied().any(reaches_platform) {
                    Extent::Platform
                } else {
                    Extent::Tenant(home.tenant_id)
                }
            }
        };
        Self { permissions, extent }
    }
}

/// Whether whoever is granted this in a tenant reaches beyond it.
#[must_use]
pub fn reaches_platform(permission: Permission) -> bool {
    matches!(permission, Permission::Admin | Permission::AdminPlatform)
}

/// Whether a role reads everything within reach without any permission.
#[must_use]
pub fn is_viewer(role: Role) -> bool {
    matches!(role, Role::PartnerViewer | Role::TenantViewer)
}

/// Whether everything in `extent` is within `reach`.
#[must_use]
pub fn covers(reach: &Reach, extent: Extent) -> bool {
    match (reach, extent) {
        (Reach::Platform, _) => true,
        (Reach::Partner(own, _), Extent::Partner(partner)) => *own == partner,
        (reach, Extent::Tenant(tenant)) => reach.covers(tenant),
        (_, Extent::Platform) | (Reach::Tenant(_), Extent::Partner(_)) => false,
    }
}

/// Refuses an actor that would manage somebody who has, or would have, more than the actor.
pub fn check_manages(actor: &Actor, powers: &Powers) -> Result<(), ErrorBody> {
    actor.require(Permission::AdminTenant)?;
    check_holds(actor, &powers.permissions)?;
    if covers(&actor.reach, powers.extent) {
        return Ok(());
    }
    let message = match powers.extent {
        Extent::Platform => "this would concern the whole platform; ask its operator",
        Extent::Partner(_) => "this would concern every tenant of the partner; ask its admin",
        Extent::Tenant(_) => "this concerns a tenant outside of your reach",
    };
    Err(ErrorBody::new(ErrorCode::Forbidden, message))
}

/// Refuses an actor that does not hold all of `permissions`.
pub fn check_holds<'a>(
    actor: &Actor,
    permissions: impl IntoIterator<Item = &'a Permission>,
) -> Result<(), ErrorBody> {
    let mut lacking = permissions.into_iter().filter(|permission| !actor.may(**permission));
    let Some(permission) = lacking.next() else { return Ok(()) };
    let message = format!(
        "you lack the permission `{}` yourself, so you cannot manage who holds it",
        permission.key()
    );
    Err(ErrorBody::new(ErrorCode::Forbidden, message))
}

/// Refuses an actor that may not make a custom role what it is to be: whoever may assign it could
/// otherwise be given more than its maker has.
pub fn check_role(actor: &Actor, permissions: &[Permission]) -> Result<(), ErrorBody> {
    actor.require(Permission::AdminTenant)?;
    check_holds(actor, permissions)?;
    match permissions.iter().copied().find(|permission| reaches_platform(*permission)) {
        Some(permission) if actor.reach != Reach::Platform => {
            let message = format!(
                "`{}` in a tenant reaches the whole platform; ask its operator",
                permission.key()
            );
            Err(ErrorBody::new(ErrorCode::Forbidden, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{prelude::*, sample::subsequence};

    use super::*;
    use crate::domain::actor::tests::actor;

    const USERS: usize = 6;

    /// Two partners with two tenants each.
    #[derive(Debug)]
    struct World {
        partners: [PartnerId; 2],
        tenants: [TenantId; 4],
    }

    #[derive(Debug, Clone)]
    struct User {
        role: Role,
        granted: Vec<Permission>,
        tenant: usize,
    }

    impl World {
        fn new() -> Self {
            Self {
                partners: std::array::from_fn(|_| PartnerId::generate()),
                tenants: std::array::from_fn(|_| TenantId::generate()),
            }
        }

        fn powers(&self, user: &User) -> Powers {
            let (tenant_id, partner_id) =
                (self.tenants[user.tenant], self.partners[user.tenant / 2]);
            Powers::of(user.role, user.granted.iter().copied(), Home { tenant_id, partner_id })
        }

        fn actor(&self, user: &User) -> Actor {
            let powers = self.powers(user);
            let reach = match powers.extent {
                Extent::Platform => Reach::Platform,
                Extent::Tenant(tenant) => Reach::Tenant(tenant),
                Extent::Partner(partner) => {
                    let first = self.partners.iter().position(|id| *id == partner).unwrap() * 2;
                    let tenants = self.tenants[first..first + 2].iter().copied().collect();
                    Reach::Partner(partner, Arc::new(tenants))
                }
            };
            let tenant_id = self.tenants[user.tenant];
            let permissions = powers.permissions.into_iter().collect();
            Actor { tenant_id, reach, permissions, is_viewer: is_viewer(user.role), ..actor(&[]) }
        }
    }

    fn role() -> impl Strategy<Value = Role> {
        (0..Role::ALL.len()).prop_map(|at| Role::ALL[at])
    }

    fn grants() -> impl Strategy<Value = Vec<Permission>> {
        subsequence(Permission::ALL.to_vec(), 0..Permission::ALL.len())
    }

    fn user() -> impl Strategy<Value = User> {
        (role(), grants(), 0usize..4).prop_map(|(role, granted, tenant)| User {
            role,
            granted,
            tenant,
        })
    }

    /// Every permission with every tenant it can be used in.
    fn uses(world: &World, user: &User) -> BTreeSet<(Permission, TenantId)> {
        let actor = world.actor(user);
        let within = world.tenants.iter().filter(|tenant| actor.reach.covers(**tenant));
        within.flat_map(|tenant| actor.permissions.iter().map(|held| (*held, *tenant))).collect()
    }

    proptest! {
        /// Whoever conspires, all together never hold more than they did.
        #[test]
        fn no_sequence_of_grants_makes_anybody_hold_more(
            mut users in proptest::collection::vec(user(), USERS),
            steps in proptest::collection::vec((0..USERS, 0..USERS, role(), grants()), 0..40),
        ) {
            let world = World::new();
            let held: BTreeSet<_> = users.iter().flat_map(|user| uses(&world, user)).collect();
            for (by, on, role, granted) in steps {
                let actor = world.actor(&users[by]);
                let changed = User { role, granted, tenant: users[on].tenant };
                let allowed = check_manages(&actor, &world.powers(&users[on])).is_ok()
                    && check_manages(&actor, &world.powers(&changed)).is_ok();
                if allowed {
                    let (own, given) = (uses(&world, &users[by]), uses(&world, &changed));
                    prop_assert!(given.is_subset(&own));
                    if is_viewer(role) {
                        prop_assert!(actor.scope() != crate::domain::actor::Scope::Own(actor.tenant_id, actor.user_id));
                    }
                    users[on] = changed;
                }
            }
            let after: BTreeSet<_> = users.iter().flat_map(|user| uses(&world, user)).collect();
            prop_assert!(after.is_subset(&held));
        }

        /// Who may make a role may give it to any user of the tenant who has nothing else.
        #[test]
        fn a_role_never_holds_more_than_its_maker(maker in user(), permissions in grants()) {
            let world = World::new();
            let actor = world.actor(&maker);
            if check_role(&actor, &permissions).is_ok() {
                let given = User { role: Role::TenantUser, granted: permissions, tenant: maker.tenant };
                prop_assert!(uses(&world, &given).is_subset(&uses(&world, &maker)));
            }
        }
    }

    #[test]
    fn what_reaches_the_platform_is_granted_by_the_platform_alone() {
        let world = World::new();
        let of = |role, granted: &[Permission]| User { role, granted: granted.to_vec(), tenant: 0 };
        let admin = of(Role::TenantUser, &[Permission::Admin]);
        assert_eq!(world.powers(&admin).extent, Extent::Platform);
        for (granter, may) in [
            (of(Role::SuperAdmin, &[]), true),
            (of(Role::PartnerAdmin, &[]), false),
            (of(Role::TenantAdmin, &[]), false),
        ] {
            let granter = world.actor(&granter);
            assert_eq!(check_manages(&granter, &world.powers(&admin)).is_ok(), may);
            assert_eq!(check_role(&granter, &[Permission::Admin]).is_ok(), may);
        }
    }

    #[test]
    fn an_admin_manages_equals_but_nobody_above() {
        let world = World::new();
        let of = |role| User { role, granted: vec![], tenant: 1 };
        let manages = |by, on| check_manages(&world.actor(&of(by)), &world.powers(&of(on))).is_ok();
        assert!(manages(Role::TenantAdmin, Role::TenantAdmin));
        assert!(manages(Role::PartnerAdmin, Role::PartnerViewer));
        assert!(!manages(Role::TenantAdmin, Role::PartnerViewer));
        assert!(!manages(Role::PartnerAdmin, Role::SuperAdmin));
        assert!(!manages(Role::TenantViewer, Role::TenantUser));
    }
}

//! A tenant as most are: without an admin of the platform.

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    iam::{AccountStatus, Partner, Role, Tenant, User},
    ids::{BunkerId, PartnerId, TenantId, UserId, WorkerId},
};

use super::{Database, worker};
use crate::{
    domain::bunker::{Bunker, tests::spec},
    store::{IdempotencyKey, Inserted, Store},
};

/// A database with a partner that has a tenant that has a user, and a worker.
pub(super) struct World {
    pub(super) store: Store,
    pub(super) partner: PartnerId,
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) worker: WorkerId,
}

impl World {
    pub(super) async fn on(database: &Database) -> Self {
        let store = database.open().await;
        store.ensure_foundations(at(0)).await.unwrap();
        let partner = store.list_partners(None, None, 1).await.unwrap()[0].id;
        let worker = worker();
        store.put_worker(&worker).await.unwrap();
        let (tenant, user) = (TenantId::generate(), UserId::generate());
        let world = Self { store, partner, tenant, user, worker: worker.id };
        let made = Tenant { id: tenant, ..world.a_tenant("first") };
        assert_eq!(world.store.insert_tenant(&made, None).await.unwrap(), Inserted::Done);
        let made = User { id: user, ..a_user(tenant) };
        assert_eq!(world.store.insert_user(&made, None).await.unwrap(), Inserted::Done);
        world
    }

    pub(super) fn a_tenant(&self, name: &str) -> Tenant {
        Tenant {
            id: TenantId::generate(),
            partner_id: self.partner,
            name: name.to_owned(),
            status: AccountStatus::Active,
            created_at: at(1),
        }
    }

    /// Another tenant of the same partner.
    pub(super) async fn tenant(&self) -> TenantId {
        self.tenant_of(self.partner).await
    }

    pub(super) async fn tenant_of(&self, partner_id: PartnerId) -> TenantId {
        let tenant = Tenant { partner_id, ..self.a_tenant("another") };
        self.store.insert_tenant(&tenant, None).await.unwrap();
        tenant.id
    }

    pub(super) async fn partner(&self, name: &str) -> PartnerId {
        let partner =
            Partner { id: PartnerId::generate(), name: name.to_owned(), created_at: at(1) };
        assert_eq!(self.store.insert_partner(&partner, None).await.unwrap(), Inserted::Done);
        partner.id
    }

    pub(super) async fn user_of(&self, tenant: TenantId) -> UserId {
        let user = a_user(tenant);
        assert_eq!(self.store.insert_user(&user, None).await.unwrap(), Inserted::Done);
        user.id
    }

    /// A bunker that is not written down yet.
    pub(super) fn a_bunker(&self) -> Bunker {
        self.bunker_of(self.tenant, self.user)
    }

    pub(super) fn bunker_of(&self, tenant: TenantId, user: UserId) -> Bunker {
        let id = BunkerId::generate();
        Bunker::placed(id, (tenant, user), self.worker, Vec::new(), spec(), at(10))
    }

    pub(super) async fn bunker(&self) -> Bunker {
        let bunker = self.a_bunker();
        self.insert(&bunker).await;
        bunker
    }

    pub(super) async fn insert(&self, bunker: &Bunker) {
        assert_eq!(self.store.insert_bunker(bunker, None).await.unwrap(), Inserted::Done);
    }

    pub(super) fn key(&self, key: &str) -> IdempotencyKey {
        IdempotencyKey {
            user_id: self.user,
            key: key.to_owned(),
            request_hash: "hash".to_owned(),
            answer: None,
        }
    }
}

/// `seconds` and a microsecond after the epoch.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::new(seconds, 1_000)
}

pub(super) fn a_user(tenant_id: TenantId) -> User {
    User {
        id: UserId::generate(),
        tenant_id,
        name: "Zoë".to_owned(),
        email: None,
        role: Role::TenantUser,
        custom_role_ids: Vec::new(),
        module_permissions: Vec::new(),
        oidc_subject: None,
        status: AccountStatus::Active,
        created_at: at(1),
    }
}
